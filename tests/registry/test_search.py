"""The runs of a search in a real store: one parent, a child per trial, none doubled."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow import MlflowClient

from pipelines.finetune.launch.barrier import RankError
from pipelines.finetune.search.run import SearchStoppedError
from pipelines.finetune.search.score import Candidate, Score
from pipelines.finetune.search.trial import write_failure
from pipelines.registry.runs.search import PARENT_TAG, TRIAL_TAG, format_csv, read_search, record_search
from pipelines.registry.runs.tracker import ERROR_TAG
from pipelines.registry.runs.training import Description
from pipelines.registry.store import find_experiment
from pipelines.storage import Folder

ABOUT = Description({"method": "random"}, "recipe: r\n", lambda text: text.replace("SECRET", "***"))


def make_trial(folder, number):
    """As `search.trial.Trial`, of a training that only has settings and a folder."""
    training = SimpleNamespace(folder=f"{folder}/trials/{number}", settings=lambda: {"seed": number})
    candidate = Candidate(number=number, settings={"seed": number})
    return SimpleNamespace(
        id=f"{number:032x}", name=f"trial {number}", candidate=candidate, training=training
    )


def finish(trial, accuracy):
    result = {"metric": "accuracy", "after": {"accuracy": accuracy}}
    Folder(trial.training.folder).write("result.json", json.dumps(result).encode())


@pytest.fixture
def search(experiment, tmp_path):
    """Opens the record of the same search, again and again."""

    def open_record():
        folder = f"{tmp_path}/search"
        return record_search("ab" * 16, folder, str(tmp_path), experiment, [], ABOUT, lambda text: None)

    return open_record


def list_runs(experiment):
    return MlflowClient().search_runs([find_experiment(experiment).experiment_id])


def train(record, trial, accuracy):
    with record.trial(trial) as listeners:
        if listeners is not None:
            listeners.log(1, {"train/loss": 0.5})
            finish(trial, accuracy)
        return listeners is not None


def test_a_search_that_was_killed_continues_its_runs_and_doubles_none(search, experiment, tmp_path):
    first, second = (make_trial(tmp_path, number) for number in (0, 1))

    def begin():
        with search() as record:
            assert train(record, first, 0.5)
            with record.trial(second):
                raise SearchStoppedError

    with pytest.raises(SearchStoppedError):
        begin()
    assert {run.info.status for run in list_runs(experiment)} == {"FINISHED", "KILLED"}
    with search() as record:
        assert not train(record, first, 0.9)  # it has ended: nothing is added
        assert train(record, second, 0.75)
        scores = [
            Score(candidate=each.candidate, metric="accuracy", values=(value,))
            for each, value in ((first, 0.5), (second, 0.75))
        ]
        record.conclude(scores, scores[1], ["finetune.seed=1"], "finetune: {seed: 1}\n")
        parent = record.tracker.run_id
    runs = list_runs(experiment)
    assert len(runs) == 3
    assert {run.info.status for run in runs} == {"FINISHED"}
    children = {run.data.tags[TRIAL_TAG]: run for run in runs if PARENT_TAG in run.data.tags}
    assert {run.data.tags[PARENT_TAG] for run in children.values()} == {parent}
    assert children[first.id].data.metrics["final/accuracy"] == 0.5
    assert children[second.id].info.run_name == "trial 1"


def test_the_result_is_in_the_run_and_in_the_folder(search, experiment, tmp_path):
    trial, failed = make_trial(tmp_path, 0), make_trial(tmp_path, 1)
    with search() as record:
        train(record, trial, 0.75)
        with pytest.raises(RankError), record.trial(failed):
            raise RankError("FloatingPointError: SECRET\nmore")
        write_failure(failed, "FloatingPointError: ***\nmore")
        scores = [
            Score(candidate=trial.candidate, metric="accuracy", values=(0.5, 1.0)),
            Score(candidate=failed.candidate, error="FloatingPointError: ***\nmore"),
        ]
        assert read_search(record.folder) is None  # not finished yet
        record.conclude(scores, scores[0], ["finetune.seed=0"], "finetune: {seed: 0}\n")
        run_id, folder = record.tracker.run_id, record.folder
    found = read_search(folder)
    assert (found["value"], found["best"], found["overrides"]) == (0.75, {"seed": 0}, ["finetune.seed=0"])
    assert [each["error"] for each in found["trials"]] == [None, "FloatingPointError: ***\nmore"]
    assert [each["lost"] for each in found["trials"]] == [False, False]
    assert Path(folder, "best.yaml").read_text() == "finetune: {seed: 0}\n"
    names = {item.path for item in MlflowClient().list_artifacts(run_id)}
    assert {"best.yaml", "result.json", "trials.csv", "pictures", "config.yaml"} <= names
    assert [item.path for item in MlflowClient().list_artifacts(run_id, "pictures")] == [
        "pictures/search.png"
    ]
    assert MlflowClient().get_run(run_id).data.metrics["best/accuracy"] == 0.75
    (child,) = [run for run in list_runs(experiment) if run.info.status == "FAILED"]
    assert child.data.tags[ERROR_TAG] == "RankError: FloatingPointError: ***\nmore"
    with search() as record, record.trial(failed) as listeners:
        assert listeners is None  # it would fail again


def test_a_table_of_scores_names_values_and_errors():
    scores = [
        Score(candidate=Candidate(number=0, settings={"seed": 1}), metric="loss", values=(0.5, 1.5)),
        Score(candidate=Candidate(number=1, settings={"seed": 2}, rung=1), error="out, of memory\ntrace"),
    ]
    assert format_csv(scores).splitlines() == [
        "trial,round,seed,value,spread,error",
        "0,1,1,1.0,0.7071067811865476,",
        '1,2,2,,,"out, of memory"',
    ]


def test_a_finished_search_that_is_run_again_takes_its_children_over(search, experiment, tmp_path):
    trial = make_trial(tmp_path, 0)
    parents = []
    for _ in range(2):
        with search() as record:
            parents.append(record.tracker.run_id)
            train(record, trial, 0.5)
    assert parents[0] != parents[1]
    (child,) = [run for run in list_runs(experiment) if PARENT_TAG in run.data.tags]
    assert child.data.tags[PARENT_TAG] == parents[1]
