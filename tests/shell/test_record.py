"""The record of a command (--summary): one JSON object, whole at every moment, without secrets."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from jobs.run import STAGES, run
from jobs.shell import redaction
from jobs.shell.command import build_command
from jobs.shell.exits import Exit
from jobs.shell.plan import Outcome, Plan
from pipelines.delta import ContractError
from pipelines.lease import LeaseHeldError
from tests.conftest import flow_overrides

KEYS = {
    "schema", "command", "state", "exit_code", "recipe", "root", "started_at", "ended_at", "seconds",
    "process", "versions", "error", "stages",
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_secrets_and_no_debug(monkeypatch):
    monkeypatch.setattr(redaction, "_known", set())
    monkeypatch.delenv("DISTRIBUTARY_DEBUG", raising=False)


def invoke(main, summary, *words, plan=STAGES["corpus"].plan, command="corpus"):
    main.__module__ = STAGES[command].__name__
    app = typer.Typer()
    app.command()(build_command(command, STAGES[command].Config, main, plan))
    result = CliRunner().invoke(app, ["--summary", str(summary), *words])
    return result.exit_code, json.loads(Path(summary).read_text()) if Path(summary).exists() else None


def raises(error):
    def main(config, check):
        raise error

    return main


def test_a_finished_stage_is_recorded(tmp_path):
    def main(config, check):
        return Outcome(stage="corpus", ran=True, why="no table yet", facts={"rows in": "3"}, fingerprint="f")

    status, record = invoke(main, tmp_path / "s.json", f"root={tmp_path}/lake", "recipe=mine")
    assert (status, set(record)) == (0, KEYS)
    assert (record["schema"], record["state"], record["exit_code"], record["error"]) == (1, "done", 0, None)
    assert (record["command"], record["recipe"], record["root"]) == ("corpus", "mine", f"{tmp_path}/lake")
    assert {"python", "pyspark", "torch"} <= set(record["versions"])
    assert record["started_at"] < record["ended_at"]
    (stage,) = record["stages"]
    assert stage.pop("seconds") >= 0
    assert stage == {
        "stage": "corpus",
        "state": "done",
        "why": "no table yet",
        "facts": {"rows in": "3"},
        "fingerprint": "f",
        "tables": [],
    }


@pytest.mark.parametrize(
    ("error", "status", "kind", "retry"),
    [
        (ContractError("documents: 3 rows have null text"), Exit.INPUT, "input", False),
        (ConnectionError("storage is away"), Exit.RETRY, "infrastructure", True),
        (LeaseHeldError("in use by process 7", is_local=False, renewed_at=0.0), Exit.RETRY, "busy", True),
        (AssertionError("impossible"), Exit.UNEXPECTED, "unexpected", False),
    ],
)
def test_a_failed_stage_is_recorded_with_its_error(tmp_path, error, status, kind, retry):
    code, record = invoke(raises(error), tmp_path / "s.json", f"root={tmp_path}")
    assert (code, record["exit_code"], record["state"]) == (status, status, "failed")
    assert record["error"] == {
        "kind": kind, "type": type(error).__name__, "message": str(error), "stage": "corpus", "retry": retry,
    }  # fmt: skip
    assert record["stages"][0]["state"] == "failed"


def test_a_wrong_configuration_is_recorded(tmp_path):
    code, record = invoke(raises(AssertionError()), tmp_path / "s.json", "corpus.rule=1")
    assert (code, record["error"]["kind"], record["error"]["retry"]) == (78, "configuration", False)
    assert "unknown key corpus.rule" in record["error"]["message"]
    assert record["stages"] == [{"stage": "corpus", "state": "not reached"}]


def test_the_record_holds_no_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_PASSWORD", "hunter2!")
    error = RuntimeError("cannot log in with hunter2! at http://user:pw1234@host")
    words = [f"root={tmp_path}", "spark={spark.my.password: '${oc.env:MY_PASSWORD}'}"]
    _, record = invoke(raises(error), tmp_path / "s.json", *words)
    assert "hunter2" not in json.dumps(record)
    assert "pw1234" not in json.dumps(record)
    assert "[redacted]" in record["error"]["message"]


def test_a_record_that_cannot_be_written_stops_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    code, record = invoke(raises(AssertionError("started")), tmp_path / "file" / "s.json", f"root={tmp_path}")
    assert (code, record) == (Exit.CONFIGURATION, None)


def test_a_dry_run_records_the_plan(tmp_path):
    def plan(config):
        return Plan(fingerprint="f", up_to_date=False, why="no table yet")

    code, record = invoke(
        raises(AssertionError()), tmp_path / "s.json", "--dry-run", f"root={tmp_path}", plan=plan
    )
    assert (code, record["state"]) == (0, "done")
    (stage,) = record["stages"]
    assert (stage["state"], stage["why"]) == ("would run", "no table yet")


def test_a_run_that_finds_nothing_new_records_everything(flow, tmp_path):
    app = typer.Typer()
    app.command()(run)
    summary = tmp_path / "s.json"
    done = CliRunner().invoke(app, ["--summary", str(summary), *flow_overrides(flow.folder)])
    assert done.exit_code == 0, done.output
    record = json.loads(summary.read_text())
    stages = {each["stage"]: each for each in record["stages"]}
    assert [(name, each["state"]) for name, each in stages.items()] == [
        (name, "up to date") for name in STAGES
    ]
    tables = [table["table"] for each in stages.values() for table in each.get("tables", [])]
    assert tables == ["quarantine", "documents", "sequences", "predictions"]
    assert all(len(table["digest"]) == 32 for each in stages.values() for table in each.get("tables", []))
    assert len({stages[name]["run_id"] for name in ("finetune", "registry", "scoring")}) == 1
    assert stages["registry"]["model"]["version"] == 1
    assert stages["scoring"]["model"] == {"name": "tickets", "version": 1}
    assert stages["scoring"]["tables"][0]["num_rows"] == 161
    assert record["seconds"] < 10
