"""Verdicts applied to a real registry, and to one that answers as Unity Catalog does."""

import json
import re
from dataclasses import replace

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities.model_registry.model_version_search import ModelVersionSearch
from mlflow.store.entities.paged_list import PagedList

from pipelines.registry.gate.apply import apply_verdict, find_verdict, read_last_verdict
from pipelines.registry.gate.decide import Measurement, decide
from pipelines.registry.gate.decontamination import require_decontaminated
from pipelines.registry.runs.tracker import Tracker
from pipelines.registry.versions.aliases import find_withdrawal, promote, undo_promotion
from pipelines.registry.versions.resolve import resolve_model
from pipelines.tables import DOCUMENTS
from tests.registry.conftest import aliases, register, versions


@pytest.fixture
def registered(new_run, model_folders, model_name):
    """Run ids of versions 1 and 2."""
    runs = {1: new_run("abc"), 2: new_run("abd")}
    assert [
        register(run_id, folder, model_name)
        for run_id, folder in zip(runs.values(), model_folders, strict=True)
    ] == [1, 2]
    return runs


@pytest.fixture
def unity_catalog(monkeypatch):
    """The search answers as Databricks' store does: in pages, with hits whose tags cannot be read."""
    search = MlflowClient.search_model_versions

    def short_pages(client, filter_string, page_token=None):
        found, first = search(client, filter_string), int(page_token or 0)
        hits = [
            ModelVersionSearch(
                name=each.name,
                version=each.version,
                creation_timestamp=0,
                run_id=each.run_id,
                status=each.status,
            )
            for each in found[first : first + 1]
        ]
        return PagedList(hits, str(first + 1) if first + 1 < len(found) else None)

    monkeypatch.setattr(MlflowClient, "search_model_versions", short_pages)


def judge(run_id, name, version, value, rival=None, rival_value=0.0, made_from="f0"):
    def measurement(number, measured):
        return Measurement(
            model_version=number,
            task="classification",
            metric="accuracy",
            value=measured,
            num_rows=10,
            rows_digest="d",
        )

    verdict = decide(measurement(version, value), None if rival is None else measurement(rival, rival_value))
    return apply_verdict(verdict, run_id, name, made_from=made_from)


def test_a_verdict_is_found_again_by_its_inputs(registered, model_name):
    kept = judge(registered[1], model_name, 1, 0.8)
    assert json.loads(mlflow.artifacts.load_text(f"runs:/{registered[1]}/verdict.json")) == kept.to_dict()
    assert aliases(model_name)["champion"] == 1
    assert find_verdict(model_name, registered[1], made_from="f0") == (1, "no champion yet; accuracy 0.8000")
    assert find_verdict(model_name, registered[1], made_from="f1") is None
    assert find_verdict(model_name, registered[2], made_from="f0") is None


def test_the_last_verdict_may_be_of_any_version(registered, model_name, unity_catalog):
    assert read_last_verdict(model_name) == ""
    judge(registered[2], model_name, 2, 0.8, made_from="of 2")
    assert read_last_verdict(model_name) == "of 2"
    judge(registered[1], model_name, 1, 0.7, 2, 0.8, made_from="of 1")
    assert read_last_verdict(model_name) == "of 1"


def test_the_gate_does_not_promote_a_withdrawn_version(registered, model_name):
    judge(registered[1], model_name, 1, 0.8)
    assert judge(registered[2], model_name, 2, 0.9, 1, 0.8).promote
    assert undo_promotion(model_name) == 1
    refused = judge(registered[2], model_name, 2, 0.95, 1, 0.8, made_from="new documents")
    assert aliases(model_name)["champion"] == 1
    assert not refused.promote
    assert re.search(
        r"gain 0\.1500; withdrawn by undo on \d{4}-\d\d-\d\d: it becomes champion again only if a person",
        refused.reason,
    )
    written = json.loads(mlflow.artifacts.load_text(f"runs:/{registered[2]}/verdict.json"))
    assert (written["promote"], written["reason"]) == (False, refused.reason)
    assert find_verdict(model_name, registered[2], made_from="new documents") == (2, refused.reason)


def test_a_new_version_is_promoted_after_an_undo(registered, new_run, model_folders, model_name):
    judge(registered[1], model_name, 1, 0.8)
    judge(registered[2], model_name, 2, 0.9, 1, 0.8)
    undo_promotion(model_name)
    run_id = new_run("abe")
    assert register(run_id, model_folders[0], model_name) == 3
    assert judge(run_id, model_name, 3, 0.85, 1, 0.8).promote
    assert aliases(model_name)["champion"] == 3


@pytest.mark.parametrize(
    "by_hand",
    [
        promote,
        lambda name, version: MlflowClient().set_registered_model_alias(name, "champion", str(version)),
    ],
)
def test_a_person_can_promote_a_withdrawn_version(registered, model_name, by_hand):
    judge(registered[1], model_name, 1, 0.8)
    judge(registered[2], model_name, 2, 0.9, 1, 0.8)
    undo_promotion(model_name)
    by_hand(model_name, 2)
    assert find_withdrawal(model_name, 2) == ""
    assert judge(registered[2], model_name, 2, 0.9, 1, 0.8, made_from="f1").promote
    promote(model_name, 1)  # another champion later: the mark stays cleared
    assert judge(registered[2], model_name, 2, 0.9, 1, 0.8, made_from="f2").promote
    assert aliases(model_name)["champion"] == 2


def test_a_verdict_on_an_old_champion_is_not_applied(registered, new_run, model_folders, model_name):
    judge(registered[1], model_name, 1, 0.8)
    run_id = new_run("abe")
    register(run_id, model_folders[0], model_name)
    judge(
        registered[2], model_name, 2, 0.95, 1, 0.8
    )  # another driver, while version 3 was measured against 1
    with pytest.raises(
        RuntimeError,
        match="version 3 was compared with version 1, but the champion is now version 2; run again",
    ):
        judge(run_id, model_name, 3, 0.9, 1, 0.8)
    assert aliases(model_name)["champion"] == 2
    assert find_verdict(model_name, run_id, made_from="f0") is None


def test_unity_catalog_hits_without_tags_are_enough(unity_catalog, registered, model_folders, model_name):
    with pytest.raises(Exception, match="do not have tags"):
        MlflowClient().search_model_versions(f"name = '{model_name}'")[0].tags()
    assert len(versions(model_name)) == 1  # one page
    assert register(registered[2], model_folders[1], model_name) == 2
    judge(registered[1], model_name, 1, 0.8)
    judge(registered[2], model_name, 2, 0.9, 1, 0.8)
    reason = "accuracy 0.9000 against 0.8000 of version 1: gain 0.1000"
    assert find_verdict(model_name, registered[2], made_from="f0") == (2, reason)
    with pytest.raises(LookupError, match=r"no version or alias '7'.*versions: 1, 2"):
        resolve_model(model_name, 7)


def test_version_tags_fit_unity_catalog(registered, model_name):
    judge(registered[1], model_name, 1, 0.8)
    judge(registered[2], model_name, 2, 0.9, 1, 0.8)
    undo_promotion(model_name)
    tags = MlflowClient().get_model_version(model_name, "2").tags
    assert len(tags) == 5
    assert not [name for name in tags if set(name) & set(".,-=/:")]


@pytest.fixture
def documents(spark, tmp_path):
    """Pin of a table whose commit says that train was compared with mmlu, and what was dropped."""
    counts = {"records": 9, "too_short": 0, "records_hit": 1, "documents": 2, "exceeding": 2, "ngrams": 5}
    limits = {"on_hit": "drop", "drop_from": ["train"], "min_record_words": 8}
    facts = {"contamination": {"mmlu": counts}, "decontamination": limits}
    none = spark.createDataFrame([], DOCUMENTS.schema)
    return DOCUMENTS.overwrite(none, f"{tmp_path}/documents", fingerprint="a" * 32, facts=facts)


def judge_documents(tracker, name, pinned, *sets):
    tracker.log_inputs([pinned])
    first = Measurement(model_version=1, task="t", metric="accuracy", value=0.8, num_rows=10, rows_digest="d")
    verdict = require_decontaminated(decide(first, None), tracker.run_id, sets)
    return apply_verdict(verdict, tracker.run_id, name, made_from="f0")


@pytest.fixture
def tracker(experiment, model_folders, model_name):
    started = Tracker(experiment, "abc")
    register(started.run_id, model_folders[0], model_name)
    return started


def test_a_model_of_clean_documents_is_promoted_with_the_counts(tracker, model_name, documents):
    assert judge_documents(tracker, model_name, documents, "mmlu").promote
    assert aliases(model_name)["champion"] == 1
    (found,) = mlflow.artifacts.load_dict(f"runs:/{tracker.run_id}/verdict.json")["decontamination"]
    assert (found["path"], found["version"]) == (documents.path, documents.version)
    assert found["sets"] == {"mmlu": documents.facts["contamination"]["mmlu"]}
    assert found["limits"] == documents.facts["decontamination"]


def test_a_missing_set_keeps_the_champion_out(tracker, model_name, documents):
    refused = judge_documents(tracker, model_name, documents, "mmlu", "gsm8k")
    assert refused.reason == (
        f"no champion yet; accuracy 0.8000; not decontaminated: documents version {documents.version} were "
        "not compared with gsm8k; add it to corpus.decontamination.evaluation_sets, then: distributary run"
    )
    assert "champion" not in aliases(model_name)
    (found,) = mlflow.artifacts.load_dict(f"runs:/{tracker.run_id}/verdict.json")["decontamination"]
    assert found["sets"]["gsm8k"] is None


@pytest.mark.parametrize(
    "other", [{"path": "/gone"}, {"table_id": "earlier"}, {"version": 7}, {"digest": "0" * 32}]
)
def test_a_commit_that_is_gone_is_no_proof(tracker, model_name, documents, other):
    refused = judge_documents(tracker, model_name, replace(documents, **other), "mmlu")
    assert re.search(r"the commit of documents version \d is gone or of another program", refused.reason)
    assert "champion" not in aliases(model_name)


def test_a_run_without_documents_is_refused_only_if_the_gate_asks(tracker, model_name, documents):
    other = replace(documents, table="sequences")
    assert "names no table of documents" in judge_documents(tracker, model_name, other, "mmlu").reason
    assert judge_documents(tracker, model_name, other).decontamination is None
    assert aliases(model_name)["champion"] == 1
