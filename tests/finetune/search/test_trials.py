"""Trials on the small classification of data.py, trained in this process; and folds of its train rows."""

import json
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.dataset.folds import write_folds
from pipelines.finetune.driver import Listeners, train_on_rank
from pipelines.finetune.launch.barrier import RankError, RanksLostError
from pipelines.finetune.results import read_result
from pipelines.finetune.search.run import SearchStoppedError, run_trials
from pipelines.finetune.search.score import Candidate
from pipelines.finetune.search.trial import (
    forget_failure,
    make_trial,
    read_failure,
    read_score,
    write_failure,
)
from pipelines.finetune.splits import open_splits
from pipelines.finetune.training import Fold
from pipelines.storage import Folder
from tests.finetune.data import NUM_ROWS, classification_rows, make_training
from tests.finetune.ranks import alone

FOLDS = np.arange(NUM_ROWS["train"], dtype=np.uint8) * 7 % 3
SHORT = {"num_epochs": 0.3, "config": {"num_hidden_layers": 1}}


def make_fold(root, number):
    write_folds(Folder(str(root)), "folds.npy", FOLDS)
    return Fold(number=number, num_folds=3, seed=0, file=f"{root}/folds.npy")


def make_trials(root, *rates, fold=None):
    """A trial for each learning rate, 3 steps each, with a fingerprint as make_training gives it."""
    return [
        make_trial(
            replace(make_training(root, learning_rate=rate, **SHORT), fingerprint=f"rate {rate}"),
            Candidate(number=number, settings={"optimization.learning_rate": rate}),
            fold,
            str(root / "searches"),
        )
        for number, rate in enumerate(rates)
    ]


@contextmanager
def unrecorded(trial):
    yield Listeners(lambda step, metrics: None, lambda text: None, lambda text: None)


class Launches:
    """Trains in this process, and fails where it is told to; counts."""

    def __init__(self, faults=None):
        self.names, self.faults = [], faults or {}

    def __call__(self, trial, listeners):
        self.names.append(trial.candidate.number)
        if read_result(trial.training.folder) is not None:
            return
        if trial.candidate.number in self.faults:
            raise self.faults[trial.candidate.number]
        train_on_rank(trial.training, alone())


def write_checkpoint(trial):
    """A file where a training keeps its state."""
    Folder(trial.training.folder).write("checkpoints/step-1/state", b"state")
    return Path(trial.training.folder, "checkpoints")


def run(trials, launches, **knobs):
    return run_trials(trials, launches, unrecorded, parallel=1, **knobs)


def test_folds_part_the_train_rows(root):
    training = make_training(root)
    whole = classification_rows(NUM_ROWS["train"], seed=0)
    held_rows = []
    for number in range(3):
        data = replace(training.data, fold=make_fold(root, number))
        splits = open_splits(replace(training, data=data), num_replicas=1)
        held, rest = np.flatnonzero(number == FOLDS), np.flatnonzero(number != FOLDS)
        for reader, expected in ((splits.train, rest), (splits.evaluation, held)):
            assert len(reader) == len(expected) > 40
            rows = reader.rows(np.arange(len(reader)))
            assert rows.labels.tolist() == whole.labels[expected].tolist()
            assert [each.tolist() for each in rows.input_ids] == [
                whole.input_ids[row].tolist() for row in expected
            ]
            assert reader.lengths.tolist() == [len(whole.input_ids[row]) for row in expected]
        assert splits.final is splits.evaluation
        held_rows += held.tolist()
    assert sorted(held_rows) == list(range(NUM_ROWS["train"]))  # each is held out once


def test_a_fold_is_part_of_what_a_trial_is(root):
    (whole,) = make_trials(root, 0.01)
    folds = [make_trials(root, 0.01, fold=make_fold(root, number))[0] for number in (0, 1)]
    assert len({trial.id for trial in (whole, *folds)}) == 3
    identities = [trial.training.identity() for trial in (whole, *folds)]
    assert len({json.dumps(each, default=str) for each in identities}) == 3
    assert make_trials(root, 0.01)[0].id == whole.id


def test_a_trial_of_a_fold_trains_on_the_others_and_measures_the_fold(root):
    (trial,) = make_trials(root, 0.01, fold=make_fold(root, 1))
    run([trial], Launches())
    result = read_result(trial.training.folder)
    assert (result["num_train_rows"], result["num_final_rows"]) == (
        int(sum(FOLDS != 1)),
        int(sum(FOLDS == 1)),
    )
    score = read_score(trial.candidate, [trial], "loss", {})
    assert (score.metric, score.value) == ("loss", result["after"]["loss"])


def test_a_trial_never_reads_the_final_split(root):
    (trial,) = make_trials(root, 0.01)
    (test_copy,) = Path(root / "cache" / "sequences").glob("*-test-*")
    test_copy.rename(root / "hidden")  # who opens it would look for a table that is not there
    run([trial], Launches())
    assert read_result(trial.training.folder)["num_final_rows"] == NUM_ROWS["validation"]


def test_trials_ask_for_no_timeline_and_no_system_metrics(root):
    watched = make_training(root, timeline=True, system_metrics=True, compile=True)
    trial = make_trial(watched, Candidate(number=0, settings={}), None, str(root / "searches"))
    execution = trial.training.execution
    assert (execution.timeline, execution.system_metrics, execution.compile) == (False, False, True)


def test_a_search_that_was_killed_trains_only_what_is_left(root):
    trials = make_trials(root, 0.001, 0.003, 0.01)
    with pytest.raises(KeyboardInterrupt):
        run(trials, Launches({1: KeyboardInterrupt()}))
    assert read_result(trials[0].training.folder) is not None
    before = [trial.training.folder for trial in trials if read_result(trial.training.folder) is None]
    assert len(before) == 2
    first = Path(trials[0].training.folder, "result.json").read_bytes()
    run(trials, Launches())
    assert Path(trials[0].training.folder, "result.json").read_bytes() == first
    scores = [read_score(trial.candidate, [trial], None, {}) for trial in trials]
    assert [score.error for score in scores] == [None] * 3
    assert not Path(trials[0].training.folder, "checkpoints").exists()  # disk is for what is needed
    assert not Path(trials[0].training.folder, "model").exists()


def test_candidates_that_mean_one_training_are_trained_once(root):
    """Two values, drawn twice each, two slots: equal trials would write to one folder at the same time."""
    trials = make_trials(root, 0.001, 0.001, 0.003, 0.003)
    launched, together = [], threading.Barrier(2)

    def launch(trial, listeners):
        together.wait(60)  # two trials do run at the same time
        launched.append(trial.candidate.number)
        result = {"metric": "accuracy", "after": {"accuracy": trial.training.optimization.learning_rate}}
        Folder(trial.training.folder).write("result.json", json.dumps(result).encode())

    run_trials(trials, launch, unrecorded, parallel=2)
    assert sorted(launched) == [0, 2]
    scores = [read_score(trial.candidate, [trial], None, {}) for trial in trials]
    assert [score.value for score in scores] == [0.001, 0.001, 0.003, 0.003]


def test_checkpoints_go_with_the_end_of_a_trial_and_stay_with_a_lost_one(root):
    trials = make_trials(root, 0.001, 0.003, 0.01)
    failed, lost, done = map(write_checkpoint, trials)
    run(trials, Launches({0: RankError("diverged"), 1: RanksLostError("no process")}))
    assert not failed.exists()
    assert not done.exists()
    assert lost.exists()


def test_checkpoints_go_though_the_driver_died_after_the_record_of_their_trial(root):
    @contextmanager
    def recorded(trial):
        yield None

    done, failed = make_trials(root, 0.001, 0.003)
    Folder(done.training.folder).write("result.json", b"{}")
    Folder(failed.training.folder).write("failure.json", b'{"error": "diverged"}')
    places = [write_checkpoint(trial) for trial in (done, failed)]
    run_trials([done, failed], Launches(), recorded, parallel=1)
    assert [place.exists() for place in places] == [False, False]


def test_a_failing_trial_ends_no_other_one_and_is_not_repeated(root):
    trials = make_trials(root, 0.001, 0.003, 0.01)
    launches = Launches({0: RankError("rank 0 on h failed: FloatingPointError: pass=SECRET")})
    assert run(trials, launches, hide=lambda text: text.replace("SECRET", "***")) == {}
    assert launches.names == [0, 1, 2]
    assert "FloatingPointError: pass=***" in read_failure(trials[0])
    scores = [read_score(trial.candidate, [trial], None, {}) for trial in trials]
    assert [bool(score.error) for score in scores] == [True, False, False]
    again = Launches()
    run(trials, again)
    assert again.names == [1, 2]  # which return at once
    forget_failure(trials[0])
    run(trials[:1], again)
    assert read_score(trials[0].candidate, trials[:1], None, {}).error is None


def test_a_lost_trial_is_tried_again_next_time(root):
    trials = make_trials(root, 0.001, 0.003)
    ended = []
    lost = run(
        trials,
        Launches({0: RanksLostError("the ranks failed at every try: SECRET")}),
        hide=lambda text: text.replace("SECRET", "***"),
        ended=lambda trial, error: ended.append((trial.id, error)),
    )
    assert lost == {trials[0].id: "the ranks failed at every try: ***"}
    assert ended == [(trials[0].id, "the ranks failed at every try: ***"), (trials[1].id, None)]
    assert read_failure(trials[0]) is None
    score = read_score(trials[0].candidate, trials[:1], None, lost)
    assert (score.error, score.is_lost) == ("the ranks failed at every try: ***", True)
    both = read_score(trials[0].candidate, trials, None, lost)  # as two folds
    assert (both.error, both.is_lost) == ("the ranks failed at every try: ***", True)
    write_failure(trials[1], "diverged")
    Folder(trials[1].training.folder).delete("result.json")
    hopeless = read_score(trials[0].candidate, trials, None, lost)
    assert (hopeless.error, hopeless.is_lost) == ("diverged", False)  # another try of 0 would change nothing
    forget_failure(trials[1])
    run(trials, Launches())
    assert read_score(trials[0].candidate, trials[:1], None, {}).error is None


def test_an_error_of_the_driver_stops_the_trials_that_run(root):
    trials, started = make_trials(root, 0.001, 0.003, 0.01), threading.Event()
    ended = []

    def launch(trial, listeners):
        if trial.candidate.number == 0:
            assert started.wait(60)
            raise OSError("the store is away")
        started.set()
        try:
            while True:
                listeners.require_lease()
        except SearchStoppedError:
            ended.append(trial.candidate.number)
            raise

    with pytest.raises(OSError, match="the store is away"):
        run_trials(trials, launch, unrecorded, parallel=2)
    assert ended == [1]  # and 2 never started


def test_a_metric_that_the_task_has_not_is_named(root):
    trials = make_trials(root, 0.01)
    run(trials, Launches())
    with pytest.raises(
        ValueError, match=r"metric is perplexity, but task classification measures only accuracy"
    ):
        read_score(trials[0].candidate, trials, "perplexity", {})


def test_an_error_about_the_first_result_stops_the_search(root):
    launches = Launches()

    def require(trial, error):
        read_score(trial.candidate, [trial], "perplexity", {})

    with pytest.raises(ValueError, match="metric is perplexity"):
        run(make_trials(root, 0.001, 0.003, 0.01), launches, ended=require)
    assert launches.names == [0]


def test_folds_and_a_mixture_do_not_go_together(root):
    training = replace(make_training(root), mixture=object())
    with pytest.raises(ValueError, match="set num_folds to null, or search without a mixture"):
        make_trial(training, Candidate(number=0, settings={}), make_fold(root, 0), str(root))
