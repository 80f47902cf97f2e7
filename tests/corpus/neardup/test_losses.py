"""What a source loses to copies and near duplicates, and the alarm. The twin compares sets of tuples."""

import gzip
import json
import re
from collections import Counter, defaultdict

import pytest

from jobs import corpus
from jobs.shell.settings import load
from pipelines.corpus.neardup.find import check_losses
from pipelines.corpus.neardup.presets import NearDuplicates
from pipelines.tables import DOCUMENTS, NEAR_DUPLICATES
from tests.corpus.increments import SPARK
from tests.corpus.neardup.corpora import write_texts
from tests.corpus.neardup.test_minhash import exact_jaccard, find_tuples
from tests.processes import CHECKOUT

DATA = CHECKOUT / "data"
REMOVED = ("exact_duplicate", "near_duplicate")


@pytest.mark.parametrize(("exact", "near"), [(2, 0), (0, 2), (1, 1)])
def test_source_that_loses_too_much_raises_an_alarm(caplog, exact, near):
    sources = {
        "s": {"kept": 2, "exact_duplicate": exact, "near_duplicate": near},
        "t": {"kept": 1, "exact_duplicate": 0, "near_duplicate": 0},
        "only broken records": {"kept": 0, "exact_duplicate": 0, "near_duplicate": 0},
    }
    loss = f"source 's': 2 of 4 documents, {exact} as exact copies and {near} as near duplicates"
    check_losses(sources, NearDuplicates(max_source_loss=0.5), "duplicates")
    with pytest.raises(ValueError, match=rf"= 0.49 of a source \({loss}\). The table duplicates"):
        check_losses(sources, NearDuplicates(max_source_loss=0.49), "duplicates")
    assert not caplog.text
    check_losses(sources, NearDuplicates(max_source_loss=0.49, on_alarm="warn"), "duplicates")
    assert loss in caplog.text


def list_sources():
    """Source -> its texts: paragraphs of 13 editions and of six books, and the code of this project."""
    sources = defaultdict(list)
    with gzip.open(DATA / "neardup_gutenberg" / "docs.jsonl.gz", "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            sources[f"edition_{row['edition'].removesuffix('.txt')}"].append(row["text"])
    for book in sorted(DATA.glob("gutenberg_en/*/*.gz")):
        with gzip.open(book, "rt", encoding="utf-8") as text:
            paragraphs = re.split(r"\n\s*\n", text.read())
        sources["books"] += [each for each in paragraphs if len(each.split()) >= 25]
    for folder in ("pipelines", "jobs", "tests"):
        sources["code"] += [file.read_text("utf-8") for file in sorted((CHECKOUT / folder).rglob("*.py"))]
    return sources


def make_config(folder, names, *overrides):
    fields = "{text: text, key: key, split: split}"
    sources = ", ".join(
        f"{{name: {name}, path: {folder}/raw/{name}, format: jsonl, fields: {fields}}}" for name in names
    )
    given = [f"root={folder}/lake", f"corpus.sources=[{sources}]", "corpus.near_duplicates.enabled=true"]
    return load(overrides=[*given, SPARK, *overrides]).section("corpus", corpus.Config)


@pytest.mark.slow
def test_a_source_of_exact_copies_stops_the_stage(spark, tmp_path):
    for source in ("first", "again"):
        write_texts(tmp_path / "raw", {f"{source}{n}": f"text {n}" for n in range(3)}, source=source)
    config = make_config(tmp_path, ["first", "again"], "corpus.near_duplicates.protected_sources=[first]")
    message = r"\(source 'again': 3 of 3 documents, 3 as exact copies and 0 as near.*were not written"
    for _ in range(2):  # the evidence is there by then, and the alarm stays
        with pytest.raises(ValueError, match=message):
            corpus.main(config)
        assert NEAR_DUPLICATES.read(spark, config.duplicates).count() == 0
    assert not (tmp_path / "lake" / "documents").exists()


@pytest.mark.slow
def test_books_and_code_lose_a_fifth_with_an_alarm_only(spark, tmp_path, caplog):
    texts = list_sources()
    for source, of_source in texts.items():
        write_texts(tmp_path / "raw", {str(n): text for n, text in enumerate(of_source)}, source=source)
    config = make_config(tmp_path, texts, "corpus.near_duplicates.on_alarm=warn")
    corpus.main(config)

    rows = {row.doc_id: row for row in DOCUMENTS.read(spark, config.documents).collect()}
    read = Counter(row.source for row in rows.values() if row.drop_reason in (None, *REMOVED))
    lost = {reason: Counter(r.source for r in rows.values() if r.drop_reason == reason) for reason in REMOVED}
    lossy = {name for name in read if sum(counts[name] for counts in lost.values()) > 0.2 * read[name]}
    found = re.findall(
        r"source '(\S+)': [\d,]+ of ([\d,]+) documents, ([\d,]+) as ex\S+ \S+ and ([\d,]+)", caplog.text
    )
    expected = {name: [read[name], *(counts[name] for counts in lost.values())] for name in lossy}
    assert {name: [int(part.replace(",", "")) for part in counts] for name, *counts in found} == expected
    # One edition loses too much as exact copies alone, the code loses little.
    assert any(lost["exact_duplicate"][name] > 0.2 * read[name] for name in lossy)
    assert "code" in read.keys() - lossy

    # Precision 1.0: every removal is a copy of a document that stays, or near it.
    evidence = {row.doc_id: row for row in NEAR_DUPLICATES.read(spark, config.duplicates).collect()}
    for row in (row for row in rows.values() if row.drop_reason in REMOVED):
        survivor = rows[row.duplicate_of]
        if row.drop_reason == "exact_duplicate":
            assert row.text == survivor.text
            continue
        sets = [set(find_tuples(each.text, 3)) for each in (row, survivor)]
        assert evidence[row.doc_id].jaccard == exact_jaccard(*sets) >= 0.8
        assert survivor.drop_reason is None
    assert min(sum(counts.values()) for counts in lost.values()) > 300
