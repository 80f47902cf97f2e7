"""The five jobs in order, on the small flow."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from jobs import finetune, registry
from jobs.shell.facts import display_sequences
from pipelines.dataset.examples.encode import TextEncoder
from pipelines.dataset.tokenizer import read_tokenizer
from pipelines.finetune.results import read_result
from pipelines.pin import pin
from pipelines.registry.runs.current import require_current
from pipelines.registry.runs.lineage import read_lineage
from pipelines.registry.runs.tracker import read_run_status
from pipelines.registry.store import connect
from pipelines.tables import DOCUMENTS, PREDICTIONS, QUARANTINE, SEQUENCES
from tests.conftest import flow_overrides
from tests.test_spark import ACTIVATED

CHECKOUT = Path(__file__).parent.parent


def test_every_record_is_a_document_or_in_quarantine(spark, flow):
    config = flow.configs["corpus"]
    facts = pin(config.documents).facts
    documents, quarantine = DOCUMENTS.read(spark, config.documents), QUARANTINE.read(spark, config.quarantine)
    assert facts["records"] == documents.count() + quarantine.count()
    (broken,) = quarantine.collect()
    assert (broken["file"], bytes(broken["raw"]).decode()) == (
        "train.csv",
        "one field too many,card_arrival,surplus\r\n",
    )
    lines = (flow.folder / "raw" / "train.csv").read_text().splitlines()
    assert lines[broken["line"] - 1].startswith("one field too many")
    assert flow.outcomes["corpus"].facts["quarantined"] == "1"


def test_copies_of_test_rows_are_dropped_from_train_only(spark, flow):
    documents = (
        DOCUMENTS.read(spark, flow.configs["corpus"].documents)
        .where("text LIKE 'Is my stolen card blocked%'")
        .collect()
    )
    by_split = {row["split"]: row for row in documents}
    assert by_split["train"]["drop_reason"] == "exact_duplicate"
    assert by_split["train"]["duplicate_of"] == by_split["test"]["doc_id"]
    assert by_split["test"]["drop_reason"] is None


def test_every_kept_document_has_one_sequence(spark, flow):
    kept = (
        DOCUMENTS.read(spark, flow.configs["corpus"].documents).where("drop_reason IS NULL").select("doc_id")
    )
    sequences = SEQUENCES.read(spark, flow.configs["dataset"].sequences).selectExpr(
        "segments[0].doc_id AS doc_id"
    )
    assert sorted(row["doc_id"] for row in kept.collect()) == sorted(
        row["doc_id"] for row in sequences.collect()
    )


def test_sequences_name_what_made_their_tokens(flow):
    config = flow.configs["dataset"]
    sequences = pin(config.sequences)
    tokenizer = read_tokenizer(config.tokenizers, sequences.facts["tokenizer"])
    assert sequences.facts["encoder"] == TextEncoder(tokenizer).description
    assert sequences.facts["encoder"].startswith(("gigatoken 0.10", "tokenizers 0."))
    assert display_sequences(sequences)["tokens made by"] == sequences.facts["encoder"]


def test_run_has_metrics_pictures_and_pinned_inputs(flow):
    connect(flow.settings.tree["tracking"]["uri"])  # other tests have stores of their own
    client = MlflowClient()
    current = require_current(flow.configs["finetune"].folder, read_run_status)
    run, result = client.get_run(current.run_id), read_result(current.folder)
    assert run.info.status == "FINISHED"
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")]
    assert steps == list(range(1, result["total_steps"] + 1))
    assert run.data.metrics["final/accuracy"] == pytest.approx(result["after"]["accuracy"])
    tables = {entry["table"]: entry for entry in read_lineage(run.info.run_id)["inputs"]}
    for name, path in (
        ("documents", flow.configs["corpus"].documents),
        ("sequences", flow.configs["dataset"].sequences),
    ):
        assert (tables[name]["version"], tables[name]["digest"]) == (pin(path).version, pin(path).digest)
    assert {"rank_0/tokens_per_second", "rank_1/tokens_per_second"} < {*run.data.metrics}
    assert 0 < run.data.metrics["train/communication_share"] < 1
    assert "system/127.0.0.1/cpu_utilization_percentage" in run.data.metrics
    (timeline,) = client.list_artifacts(run.info.run_id, "timeline")
    assert timeline.file_size > 0
    artifacts = {
        item.path for folder in ("", "pictures") for item in client.list_artifacts(run.info.run_id, folder)
    }
    assert {"config.yaml", "environment.json", "lineage.json", "verdict.json"} <= artifacts
    assert {
        f"pictures/{name}.png" for name in ("loss", "confusion", "corpus", "sequences", "step_times")
    } <= artifacts
    written = json.loads(mlflow.artifacts.load_text(f"runs:/{current.run_id}/lineage.json"))
    assert written["model_versions"] == [{"name": "tickets", "version": 1}]


def test_champion_scored_every_test_document_once(spark, flow):
    predictions = PREDICTIONS.read(spark, flow.configs["scoring"].predictions)
    documents = DOCUMENTS.read(spark, flow.configs["corpus"].documents).where("split = 'test'")
    assert predictions.count() == predictions.select("doc_id").distinct().count() == documents.count()
    # The registered model, read back, says what the trained one said: same accuracy on the same rows.
    right = predictions.where("prediction = label").count() / predictions.count()
    assert right == pytest.approx(
        read_result(finetune.plan(flow.configs["finetune"]).inputs[0].folder)["after"]["accuracy"]
    )


def test_second_run_does_nothing_and_says_why(flow):
    for name, stage in flow.stages.items():
        outcome = stage.main(flow.configs[name])
        assert (outcome.ran, stage.plan(flow.configs[name]).up_to_date) == (False, True), outcome
        assert outcome.why


def test_a_model_whose_documents_were_not_compared_stays_a_challenger(flow):
    asked = {"name": "guarded", "decontaminated_from": ("quiz",)}
    config = flow.configs["registry"].model_copy(update=asked)
    outcome = registry.main(config)
    assert outcome.facts["model version"] == "guarded 1 (challenger)"
    assert re.search(r"documents version \d+ were not compared with quiz; add it to", outcome.facts["gate"])
    assert registry.plan(config).up_to_date
    assert not registry.plan(config.model_copy(update={"decontaminated_from": ()})).up_to_date


def test_only_new_documents_are_scored(spark, flow, tmp_path):
    config = flow.configs["scoring"].model_copy(update={"predictions": str(tmp_path / "predictions")})
    stage = flow.stages["scoring"]
    documents = DOCUMENTS.read(spark, config.documents)
    assert stage.main(config).facts["predictions added"] == str(documents.where("split = 'test'").count())
    wider = stage.main(config.model_copy(update={"split": "all"}))
    total = documents.count()
    assert PREDICTIONS.read(spark, config.predictions).count() == total
    assert int(wider.facts["predictions added"].replace(",", "")) < total


def test_tables_changed_by_others_are_not_overwritten(spark, flow, tmp_path):
    elsewhere = {name: str(tmp_path / name) for name in ("documents", "quarantine")}
    config = flow.configs["corpus"].model_copy(update=elsewhere)
    flow.stages["corpus"].main(config)
    spark.sql(f"DELETE FROM delta.`{config.documents}` WHERE split = 'test'")
    with pytest.raises(
        ValueError, match=r"was changed outside of Distributary \(version \d+, DELETE\).*delete the table"
    ):
        flow.stages["corpus"].main(config)


def test_missing_input_names_the_stage_to_run(flow, tmp_path):
    config = flow.configs["dataset"].model_copy(update={"documents": str(tmp_path / "nothing")})
    with pytest.raises(
        FileNotFoundError, match=r"no documents table at .*/nothing; run first: distributary corpus"
    ):
        flow.stages["dataset"].main(config)


@pytest.mark.slow
def test_spark_submit_and_python_run_the_same_job(flow, tmp_path):
    overrides = [*flow_overrides(flow.folder), f"root={tmp_path}"]
    environment = {**os.environ, **ACTIVATED}
    submit = [
        "spark-submit",
        "--conf",
        "spark.sql.shuffle.partitions=3",
        str(CHECKOUT / "jobs" / "corpus.py"),
        *overrides,
    ]
    submitted = subprocess.run(submit, capture_output=True, text=True, env=environment, check=False)
    assert "corpus done" in submitted.stdout, submitted.stdout + submitted.stderr
    again = subprocess.run(
        [sys.executable, "-m", "jobs.corpus", *overrides],
        capture_output=True,
        text=True,
        env=environment,
        cwd=CHECKOUT,
        check=True,
    )
    assert "corpus up to date" in again.stdout
    assert pin(str(tmp_path / "documents")).digest == pin(flow.configs["corpus"].documents).digest


def test_dry_run_changes_nothing_and_lists_each_stage(flow, tmp_path):
    command = [
        sys.executable,
        "-m",
        "jobs.run",
        "--dry-run",
        *flow_overrides(flow.folder),
        f"root={tmp_path}/new",
    ]
    lines = subprocess.run(
        command, capture_output=True, text=True, cwd=CHECKOUT, check=True
    ).stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["corpus", "dataset", "finetune", "registry", "scoring"]
    assert all("would run" in line for line in lines)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_doctor_and_config_work_from_the_command_line():
    command = [sys.executable, "-m", "jobs.shell.cli"]
    shown = run_command([*command, "config", "--recipe", "customer_service"])
    assert "sequence_length: 64" in shown.stdout
    fault = run_command([*command, "config", "finetune.sed=1"])
    assert fault.returncode == 78
    assert "unknown key finetune.sed; did you mean seed?" in fault.stderr
    assert "Traceback" not in fault.stderr
    checks = json.loads(run_command([*command, "doctor", "--json"]).stdout)
    assert {"python", "java", "packages"} <= {check["name"] for check in checks["checks"]}


def run_command(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, check=False)
