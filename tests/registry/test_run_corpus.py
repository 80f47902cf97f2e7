"""What the run of a training shows of its corpus."""

import json
from dataclasses import replace

import pytest
from mlflow import MlflowClient, artifacts

from pipelines.corpus.report.numbers import write_numbers
from pipelines.markup import describe
from pipelines.registry.runs.corpus import log_corpus
from pipelines.registry.runs.tracker import Tracker
from pipelines.report import TableVersion
from tests.corpus.report_content import commit_documents, make_content, make_token_counts

FACTS = {
    "records": 20,
    "quarantined": 4,
    "dropped": {"exact_duplicate": 1, "fineweb/min_stop_line_fraction": 2, "language": 3},
}


@pytest.fixture
def documents(tmp_path):
    """Pin of a table whose commit says that corpus wrote a report, without its facts."""
    facts = {**FACTS, "report": f"{tmp_path}/report.html"}
    return replace(commit_documents(f"{tmp_path}/documents", facts), facts={})


def list_files(tracker):
    client = MlflowClient()
    return {
        item.path
        for folder in (None, "pictures")
        for item in client.list_artifacts(tracker.run_id, folder)
        if not item.is_dir
    }


def describe_page(version, digest):
    return describe({"version": str(version), "digest": digest}) + "网页"


def describe_numbers(version, digest, **values):
    table = TableVersion(name="documents", version=version, digest=digest, num_rows=16, written="")
    return write_numbers(make_content(tables=[table], token_counts=make_token_counts(), **values))


def write_files(folder, page, numbers):
    for name, text in (("report.html", page), ("report.json", numbers)):
        if text is not None:
            (folder / name).write_text(text)


def test_the_run_has_the_report_of_its_documents(experiment, documents, tmp_path):
    own = (documents.version, documents.digest)
    page, numbers = describe_page(*own), describe_numbers(*own)
    write_files(tmp_path, page, numbers)
    tracker = Tracker(experiment, "abc")
    log_corpus(tracker, documents)
    pictures = {f"pictures/corpus{name}.png" for name in ("", "_lengths", "_languages", "_clusters")}
    assert list_files(tracker) == {"corpus.html", "corpus.json", *pictures}
    assert artifacts.load_text(f"runs:/{tracker.run_id}/corpus.html") == page
    assert artifacts.load_text(f"runs:/{tracker.run_id}/corpus.json") == numbers


def test_what_was_not_counted_has_no_picture(experiment, documents, tmp_path):
    own = (documents.version, documents.digest)
    write_files(tmp_path, describe_page(*own), describe_numbers(*own, languages=None, clusters={}))
    tracker = Tracker(experiment, "abc")
    log_corpus(tracker, documents)
    pictures = {"pictures/corpus.png", "pictures/corpus_lengths.png"}
    assert list_files(tracker) == {"corpus.html", "corpus.json", *pictures}


@pytest.mark.parametrize("other", ["page", "numbers"])
@pytest.mark.parametrize("change", ["gone", "version", "digest"])
def test_a_report_of_other_documents_is_left_out(experiment, documents, tmp_path, other, change):
    files = {}
    for name, describe_file in (("page", describe_page), ("numbers", describe_numbers)):
        version, digest = documents.version, documents.digest
        if name == other:
            version, digest = version + (change == "version"), "other" if change == "digest" else digest
        files[name] = None if name == other and change == "gone" else describe_file(version, digest)
    write_files(tmp_path, files["page"], files["numbers"])
    tracker = Tracker(experiment, "abc")
    log_corpus(tracker, documents)
    assert list_files(tracker) == {"pictures/corpus.png"}


def change(**changes):
    """A change of the JSON of a report."""
    return lambda text: json.dumps({**json.loads(text), **changes})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (change(format=2), "numbers of a report have format 1, these 2; delete them, and the stage corpus"),
        (change(format=None), "have format 1, these None"),
        (change(lengths=[{"is_kept": True}]), r"were changed after they were written (KeyError("),
        (change(languages=7), "(TypeError("),
        (change(clusters=[{"kind": "k", "documents_in_a_cluster": 2, "clusters": "x"}]), "(ValueError("),
    ],
    ids=["newer", "older", "key", "list", "number"],
)
def test_a_report_that_cannot_be_read_gives_a_warning(
    experiment, documents, tmp_path, caplog, spoil, message
):
    own = (documents.version, documents.digest)
    write_files(tmp_path, describe_page(*own), spoil(describe_numbers(*own)))
    tracker = Tracker(experiment, "abc")
    log_corpus(tracker, documents)
    assert f"run {tracker.run_id}: no report of the corpus from {tmp_path}/report.html (" in caplog.text
    assert message in caplog.text
    assert list_files(tracker) == {"pictures/corpus.png"}


def test_a_report_in_a_store_that_is_not_here_gives_a_warning(experiment, tmp_path, caplog):
    facts = {**FACTS, "report": "none://bucket/report.html"}
    tracker = Tracker(experiment, "abc")
    log_corpus(tracker, commit_documents(f"{tmp_path}/documents", facts))
    assert "no report of the corpus from none://bucket/report.html (" in caplog.text
    assert list_files(tracker) == {"pictures/corpus.png"}


def test_a_table_that_is_gone_gives_a_warning(experiment, documents, tmp_path, caplog):
    tracker = Tracker(experiment, "abc")
    log_corpus(tracker, replace(documents, path=f"{tmp_path}/gone"))
    log_corpus(tracker, replace(documents, table_id="of a table before this one"))
    assert caplog.text.count("no picture of the corpus: its commit is gone") == 2
    assert list_files(tracker) == set()
