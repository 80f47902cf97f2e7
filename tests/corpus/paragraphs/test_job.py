"""Removed paragraphs in the job: tables, fingerprint, new files, and the tools that read its tables."""

import json

import pytest

from jobs import corpus
from jobs.shell.what_if import show_what_if
from pipelines.pin import pin
from pipelines.tables import DOCUMENTS, REMOVED_PARAGRAPHS
from tests.corpus.increments import make_config, make_variant, write_file

LINE = "The same long line stands in many of the documents."
ON = "corpus.paragraphs.enabled=true"


def write_pages(folder, file, *texts):
    write_file(folder, "b", file, *({"text": text, "split": "train"} for text in texts))


def read(spark, config):
    rows = DOCUMENTS.read(spark, config.documents).orderBy("source", "file", "offset").collect()
    removed = REMOVED_PARAGRAPHS.read(spark, config.removed_paragraphs).count()
    return [row.text for row in rows], removed


@pytest.fixture
def folder(tmp_path):
    write_file(tmp_path, "a", "1", {"text": "with a key", "key": "k", "split": "train"})
    write_pages(
        tmp_path, "2", f"one\n{LINE}", f"two\n{LINE}", "three\nAlone in the first of two files, later not."
    )
    return tmp_path


def test_new_files_make_a_full_run_and_say_why(spark, folder):
    config = make_config(folder, "lake", ON)
    assert corpus.main(config).facts["paragraphs removed"] == f"1; {len(LINE):,} characters"
    assert not corpus.main(config).ran
    write_pages(folder, "1", "four\nAlone in the first of two files, later not.")
    outcome = corpus.main(config)
    reason = "a new file can make paragraphs of earlier documents copies (corpus.paragraphs)"
    assert outcome.why == f"all files are read, because {reason}"
    # File 1 comes before 2, so its text keeps the line that the earlier one had.
    texts = [
        "with a key",
        "four\nAlone in the first of two files, later not.",
        f"one\n{LINE}",
        "two",
        "three",
    ]
    assert read(spark, config) == (texts, 2)
    assert outcome.facts["rows in"] == "5"
    twin = make_config(folder, "twin", ON)
    corpus.main(twin)
    for name in ("documents", "removed_paragraphs"):
        assert pin(getattr(twin, name)).digest == pin(getattr(config, name)).digest


def test_kept_files_and_new_ones_cannot_be_had(spark, folder):
    config = make_config(folder, "lake", ON, "corpus.changed_files=keep")
    corpus.main(config)
    (folder / "raw" / "b" / "2").unlink()
    assert not corpus.main(config).ran
    write_pages(folder, "3", "five")
    with pytest.raises(
        ValueError, match=r"\(corpus.paragraphs\), so all files must be read again, but 1 file"
    ):
        corpus.main(config)


def test_settings_are_part_of_the_fingerprint_while_they_are_on(spark, folder):
    off = make_config(folder, "lake", "corpus.paragraphs.min_bytes=40")
    made_from = corpus.plan(make_config(folder)).fingerprint
    assert corpus.plan(off).fingerprint == made_from
    on = corpus.plan(make_config(folder, "lake", ON))
    assert on.fingerprint != made_from
    assert corpus.plan(make_config(folder, "lake", ON, "corpus.paragraphs.min_bytes=40")).fingerprint not in (
        made_from,
        on.fingerprint,
    )


def test_contamination_near_duplicates_and_what_if_see_the_edited_texts(spark, tmp_path, capsys):
    (tmp_path / "exam.jsonl").write_text(json.dumps({"text": LINE}) + "\n")
    exam = f"{{name: exam, path: {tmp_path}/exam.jsonl, format: jsonl, fields: {{text: text}}}}"
    write_file(tmp_path, "a", "1", {"text": f"has the line\n{LINE}", "key": "k", "split": "train"})
    words = " ".join(f"word{number}" for number in range(30))
    # With the line, 58 of 68 shingles would be equal; without, 58 of 60.
    write_pages(tmp_path, "1", f"{words}\n{LINE}", make_variant(1, 0), f"{make_variant(1, 1)}\n{LINE}")
    knobs = {"enabled": "true", "min_jaccard": 0.95, "max_source_loss": 1.0}
    near = [f"corpus.near_duplicates.{name}={value}" for name, value in knobs.items()]
    sets = (
        f"corpus.decontamination.evaluation_sets=[{exam}]",
        "corpus.rules.presets=[gopher_repetition@paper]",
    )
    config = make_config(tmp_path, "lake", ON, *near, *sets, f"corpus.report={tmp_path}/report.html")
    outcome = corpus.main(config)
    assert outcome.facts["dropped"] == "contaminated 1, near_duplicate 1"
    assert outcome.facts["paragraphs removed"] == f"2; {2 * len(LINE):,} characters"
    texts, removed = read(spark, config)
    assert texts == [f"has the line\n{LINE}", words, make_variant(1, 0), make_variant(1, 1)]
    assert removed == 2
    capsys.readouterr()
    show_what_if(config, ["gopher_repetition@paper/max_duplicate_line_fraction=null"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    kept = str(len(words) + len(make_variant(1, 0)))
    assert ["kept", "2", kept, "2", kept] in rows
    assert "2 in 2 documents, which other documents have" in (tmp_path / "report.html").read_text()
