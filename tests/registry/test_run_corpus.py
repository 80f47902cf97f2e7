"""What the run of a training shows of its corpus."""

from dataclasses import replace

import pytest
from mlflow import MlflowClient, artifacts

from pipelines.corpus.report.markup import describe
from pipelines.registry.runs.corpus import log_corpus
from pipelines.registry.runs.tracker import Tracker
from pipelines.tables import DOCUMENTS

FACTS = {
    "records": 20,
    "quarantined": 4,
    "dropped": {"exact_duplicate": 1, "fineweb/min_stop_line_fraction": 2, "language": 3},
}


@pytest.fixture
def documents(spark, tmp_path):
    """Pin of an empty table whose commit says that corpus wrote a report, without its facts."""
    facts = {**FACTS, "report": f"{tmp_path}/report.html"}
    none = spark.createDataFrame([], DOCUMENTS.schema)
    return replace(
        DOCUMENTS.overwrite(none, f"{tmp_path}/documents", fingerprint="a" * 32, facts=facts), facts={}
    )


def list_files(tracker):
    client = MlflowClient()
    return {
        item.path
        for folder in (None, "pictures")
        for item in client.list_artifacts(tracker.run_id, folder)
        if not item.is_dir
    }


def test_the_run_has_the_page_of_its_documents(experiment, documents, tmp_path):
    page = describe({"version": str(documents.version), "digest": documents.digest}) + "网页"
    (tmp_path / "report.html").write_text(page)
    tracker = Tracker(experiment, "abc")
    log_corpus(tracker, documents)
    assert list_files(tracker) == {"corpus.html", "pictures/corpus.png"}
    assert artifacts.load_text(f"runs:/{tracker.run_id}/corpus.html") == page


@pytest.mark.parametrize("version", [None, 0, 1])
def test_a_page_of_other_documents_is_left_out(experiment, documents, tmp_path, version):
    if version is not None:
        digest = documents.digest if version != documents.version else "other"
        (tmp_path / "report.html").write_text(describe({"version": str(version), "digest": digest}))
    tracker = Tracker(experiment, "abc")
    log_corpus(tracker, documents)
    assert list_files(tracker) == {"pictures/corpus.png"}


def test_a_table_that_is_gone_gives_a_warning(experiment, documents, tmp_path, caplog):
    tracker = Tracker(experiment, "abc")
    log_corpus(tracker, replace(documents, path=f"{tmp_path}/gone"))
    log_corpus(tracker, replace(documents, table_id="of a table before this one"))
    assert caplog.text.count("no picture of the corpus: its commit is gone") == 2
    assert list_files(tracker) == set()
