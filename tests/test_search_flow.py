"""A search on the small flow: three candidates on two folds as Spark tasks, one of which diverges."""

import json
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from jobs.finetune import Config
from jobs.shell.search_command import search
from jobs.shell.settings import load
from pipelines.finetune.search.run import count_parallel
from pipelines.registry.runs.current import read_current
from pipelines.registry.runs.search import PARENT_TAG
from pipelines.registry.store import find_experiment
from tests.conftest import count_jobs, flow_overrides


@pytest.fixture(scope="module")
def searched(flow, tmp_path_factory):
    """The overrides and the folder of a search that ran once, undisturbed."""
    folder = tmp_path_factory.mktemp("search")
    overrides = [
        *flow_overrides(flow.folder),
        f"finetune.folder={folder}/finetune",
        f"finetune.searches={folder}/searches",
        "tracking.experiment=searched",
        "finetune.num_epochs=0.5",
        "finetune.num_ranks=1",
        "finetune.search={method: grid, num_folds: 2}",
        "finetune.search.space={optimization.learning_rate: [1e-6, 1e30, 0.003]}",
    ]
    search(overrides=overrides, summary=f"{folder}/summary.json")
    return overrides, folder


def list_runs():
    return MlflowClient().search_runs([find_experiment("searched").experiment_id])


def test_each_candidate_has_a_run_for_each_fold_and_failures_end_nothing(searched):
    children = [run for run in list_runs() if PARENT_TAG in run.data.tags]
    ends = {
        (run.data.params["learning_rate"], run.data.params["fold.number"]): run.info.status
        for run in children
    }
    assert len(children) == 6
    assert ends == {
        (rate, fold): "FAILED" if rate == "1e+30" else "FINISHED"
        for rate in ("1e-06", "1e+30", "0.003")
        for fold in ("0", "1")
    }
    (parent,) = {run.data.tags[PARENT_TAG] for run in children}
    assert MlflowClient().get_run(parent).info.status == "FINISHED"
    failed = next(run for run in children if run.info.status == "FAILED")
    assert "FloatingPointError: loss is" in failed.data.tags["distributary.error"]


def test_the_best_settings_are_kept_and_trained_by_the_finetune_stage(searched):
    overrides, folder = searched
    (result,) = (json.loads(file.read_text()) for file in Path(folder, "searches").glob("*/result.json"))
    values = {each["settings"]["optimization.learning_rate"]: each["value"] for each in result["trials"]}
    assert result["overrides"] == ["finetune.optimization.learning_rate=0.003"]
    assert values[0.003] > values[1e-6]
    assert values[1e30] is None
    (best,) = Path(folder, "searches").glob("*/best.yaml")
    config = load(file=best, overrides=overrides).section("finetune", Config)
    assert config.optimization.learning_rate == 0.003
    run = MlflowClient().get_run(read_current(f"{folder}/finetune").run_id)
    assert (run.info.status, run.data.params["learning_rate"]) == ("FINISHED", "0.003")
    assert "fold.number" not in run.data.params
    summary = json.loads(Path(folder, "summary.json").read_text())
    assert [stage["state"] for stage in summary["stages"]] == ["done", "done"]


def test_a_second_search_trains_nothing_and_lists_nothing_new(spark, searched, capsys):
    overrides, _ = searched
    before, num_jobs = len(list_runs()), count_jobs(spark)
    search(overrides=overrides)
    assert len(list_runs()) == before
    assert count_jobs(spark) == num_jobs
    printed = " ".join(capsys.readouterr().out.split())
    assert "search up to date: run" in printed
    assert "finetune up to date: run" in printed


@pytest.mark.parametrize(("num_gpus", "max_parallel", "expected"), [(1, None, 1), (0, None, 2), (1, 3, 3)])
def test_trials_on_a_local_master_with_a_gpu_run_one_at_a_time(
    spark, monkeypatch, caplog, num_gpus, max_parallel, expected
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    assert count_parallel(spark, max_parallel, 0.0) == expected  # the session has two slots
    assert ("set finetune.search.max_parallel" in caplog.text) == (expected == 1)


def test_a_dry_run_lists_the_trials(searched, capsys):
    overrides, _ = searched
    words = ["finetune.search.method=halving", "finetune.search.num_trials=6"]
    search(overrides=[*overrides[:-1], *words], dry_run=True)
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("  trial ") for line in lines) == 6
    assert any("rounds: trials x epochs: 6 x 0.167, 2 x 0.5" in line for line in lines)
    assert any("folds: 2 trainings for each trial" in line for line in lines)
