"""The five stages on the texts of data/chinese: sentences in both scripts, software documentation, classics.

Word counts are counted by hand, languages and splits are those of the samples.
"""

import gzip
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from jobs.run import STAGES
from jobs.shell.settings import load
from pipelines.corpus.presets import PRESETS
from pipelines.pin import pin
from pipelines.tables import DOCUMENTS, PREDICTIONS, SEQUENCES, SIGNALS
from tests.conftest import TEST_CONF

CHINESE = Path(__file__).parent.parent / "data" / "chinese"
COUNTED = {
    "今天，|我们|使用|计算机|处理|图片|和|视频。": "zh-Hans",
    "圍繞|南極|的|南極洲|是|地球|上|最|冷|的|地方。": "zh-Hant",
    "TiDB|会|优化|SQL|语句|的|执行，|以|最|省时|的|方式|返回|结果。": "zh-Hans",
}
"""Words, cut by hand, with the mark behind them -> language. Two are from SIB-200, one from TiDB's pages."""
MODEL = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}


def read_sample(name):
    with gzip.open(CHINESE / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def choose_rows():
    """Rows by source: 200 parallel sentences in each script, 94 pages, 231 classics, three counted texts."""
    sentences = [row for row in read_sample("sib200") if row["language"] != "en"]
    sib200 = []
    for language in ("zh-Hans", "zh-Hant"):
        for split, number in (("train", 150), ("validation", 20), ("test", 30)):
            sib200 += [r for r in sentences if (r["language"], r["split"]) == (language, split)][:number]
    pages = [{**row, "text": row["text"][:300]} for row in read_sample("tidb_docs")[::4]]
    counted = [{"id": words, "text": join_words(words)} for words in COUNTED]
    return {"sib200": sib200, "tidb": pages, "classics": read_sample("classics")[::3], "counted": counted}


def join_words(words):
    """The text of words: Latin ones stand between white space."""
    pieces = words.split("|")
    text = pieces[0]
    for left, right in pairwise(pieces):
        text += " " * (left[-1].isascii() or right[0].isascii()) + right
    return text


@pytest.fixture(scope="module")
def chinese(spark, tmp_path_factory):
    """(configs, rows by source) of the stages run once."""
    folder, rows, sources = tmp_path_factory.mktemp("chinese"), choose_rows(), []
    for name, each in rows.items():
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in each), encoding="utf-8")
        source = {"name": name, "path": str(path), "format": "jsonl", "fields": {"text": "text", "key": "id"}}
        source["metadata"] = {"id": "id"}
        if name == "sib200":
            source["fields"]["split"] = "split"
        elif name != "counted":
            source["splits"] = {"train": 0.8, "validation": 0.1, "test": 0.1}
        sources.append(source)
    rules = {
        "languages": ["zh"],
        "presets": ["gopher_quality@paper"],
        # No text is dropped for its length, but its words are counted.
        "thresholds": {
            f"gopher_quality@paper/{rule}": None for rule, _ in PRESETS["gopher_quality@paper"].limits
        },
    }
    settings = load(
        overrides=[
            "recipe=chinese",
            f"root={folder}/lake",
            f"tracking.uri=sqlite:///{folder}/mlflow.db",
            f"tracking.artifacts={folder}/artifacts",
            f"spark={json.dumps(TEST_CONF)}",
            f"corpus.sources={json.dumps(sources)}",
            f"corpus.rules={json.dumps(rules)}",
            "dataset.task=language_modelling",
            "dataset.tokenizer.vocab_size=800",
            "dataset.packing={method: concatenate, sequence_length: 64}",
            f"finetune.model.config={json.dumps(MODEL)}",
            "finetune.num_epochs=1.0",
            "finetune.global_batch=64",
            "finetune.window_batches=1",
        ]
    )
    configs = {name: settings.section(name, stage.Config) for name, stage in STAGES.items()}
    for name, stage in STAGES.items():
        stage.main(configs[name])
    return configs, rows


def read_documents(spark, configs):
    """Documents with their signals."""
    signals = SIGNALS.read(spark, configs["corpus"].signals)
    return DOCUMENTS.read(spark, configs["corpus"].documents).join(signals, "doc_id", "left").collect()


@pytest.mark.slow
def test_words_of_chinese_are_counted_as_by_hand(spark, chinese):
    configs, _ = chinese
    found = {
        row["metadata"]["id"]: row for row in read_documents(spark, configs) if row["source"] == "counted"
    }
    assert {words: (row["num_words"], row["language"]) for words, row in found.items()} == {
        words: (len(words.split("|")), language) for words, language in COUNTED.items()
    }


@pytest.mark.slow
def test_each_script_keeps_its_language(spark, chinese):
    configs, rows = chinese
    found = {}
    for row in read_documents(spark, configs):
        found.setdefault(row["source"], Counter())[row["language"]] += 1
    assert found["sib200"] == {"zh-Hans": 200, "zh-Hant": 200}
    books = Counter("zh-Hant" if row["id"].startswith("tangshi") else "zh-Hans" for row in rows["classics"])
    assert abs(found["classics"]["zh-Hant"] - books["zh-Hant"]) <= 3
    assert found["classics"]["zh-Hans"] >= books["zh-Hans"] - 9
    assert found["tidb"]["zh-Hans"] >= 92
    assert sum(map(sum, (each.values() for each in found.values()))) == sum(map(len, rows.values()))


@pytest.mark.slow
def test_splits_are_the_given_ones_or_their_shares(spark, chinese):
    configs, _ = chinese
    documents = DOCUMENTS.read(spark, configs["corpus"].documents).collect()
    # A sentence may be the same in both scripts: then one of both is a copy, and keeps its row.
    given = Counter(row["split"] for row in documents if row["source"] == "sib200")
    assert given == {"train": 300, "validation": 40, "test": 60}
    kept = [row for row in documents if row["drop_reason"] is None]
    hashed = Counter(row["split"] for row in kept if row["source"] in ("tidb", "classics"))
    num_hashed = sum(hashed.values())
    assert num_hashed >= 300
    # Within three standard deviations of the shares, 0.8 and 0.1.
    for split, share in (("train", 0.8), ("validation", 0.1), ("test", 0.1)):
        assert abs(hashed[split] / num_hashed - share) < 3 * (share * (1 - share) / num_hashed) ** 0.5


@pytest.mark.slow
def test_no_kept_text_is_lost_on_the_way_to_predictions(spark, chinese):
    configs, _ = chinese
    kept = DOCUMENTS.read(spark, configs["corpus"].documents).where("drop_reason IS NULL")
    kept_ids = {row["doc_id"] for row in kept.select("doc_id").collect()}
    segments = SEQUENCES.read(spark, configs["dataset"].sequences).selectExpr("explode(segments) AS segment")
    assert {row["segment"]["doc_id"] for row in segments.collect()} == kept_ids
    assert len(kept_ids) == sum(pin(configs["corpus"].documents).facts["kept"].values())
    expected = {row["doc_id"]: row["text"] for row in kept.where("split = 'test'").collect()}
    predictions = PREDICTIONS.read(spark, configs["scoring"].predictions).collect()
    assert len(predictions) == len(expected) > 80
    assert {row["doc_id"]: row["text"] for row in predictions} == expected
    # An untrained byte costs 8 bits, and Chinese has three bytes a character.
    assert all(0 < row["score"] < 8 for row in predictions)
