"""Distillation on several ranks: as on one, in float64 to 1e-12, in any micro-batch, and after a restart."""

from dataclasses import replace

import numpy as np
import pytest

from pipelines.finetune.teacher import Teacher
from tests.finetune import data
from tests.finetune.ranks import alone, run_processes
from tests.finetune.test_distillation import CONFIGS, GPT2, write_teacher
from tests.finetune.test_strategies import STEPS, assert_equal, double_training, run_steps

pytestmark = [pytest.mark.slow, pytest.mark.horovod]

ROWS = {"classification": data.classification_rows, "language_modelling": data.text_rows}
TASKS = pytest.mark.parametrize("task", CONFIGS)


@pytest.fixture
def make_taught(tmp_path, monkeypatch):
    """Function: a training of a task with a teacher."""
    monkeypatch.setenv("DISTRIBUTARY_CACHE", str(tmp_path / "cache"))
    written = set()

    def make(task, name, micro_batch=3, **changes):
        if not written:
            data.write_sequences(tmp_path / "cache", ROWS[task])
            # A llama computes its norms in float32, whatever its weights are.
            wide = {**GPT2, "n_embd": 32} if task == "language_modelling" else None
            write_teacher(tmp_path / "teacher", task, config=wide)
            written.add(task)
        training = double_training(tmp_path, name, task=task, **changes)
        if task == "language_modelling":
            training = replace(
                training,
                architecture=replace(training.architecture, config=GPT2),
                spec=replace(training.spec, labels=()),
            )
        return replace(
            training,
            execution=replace(training.execution, micro_batch=micro_batch),
            teacher=Teacher(base=str(tmp_path / "teacher"), weight=0.7),
        )

    return make


def require_other_without_teacher(found, training):
    plain = run_steps(alone(), replace(training, teacher=None, folder=f"{training.folder} plain"))
    assert np.abs(found["curve"] - plain["curve"]).max() > 1e-3


@TASKS
def test_micro_batches_equal_one(make_taught, task):
    one = run_steps(alone(), make_taught(task, "one", 16))
    require_other_without_teacher(one, make_taught(task, "one", 16))
    assert_equal(run_steps(alone(), make_taught(task, "parts", 5)), one)


@pytest.mark.parametrize(
    ("task", "num_ranks", "backend", "strategy"),
    [
        ("classification", 2, "horovod", "data_parallel"),
        ("language_modelling", 4, "torch", "data_parallel"),
        pytest.param("language_modelling", 2, "torch", "fully_sharded", marks=pytest.mark.soak),
    ],
)
def test_ranks_equal_one_process(make_taught, task, num_ranks, backend, strategy):
    one = run_steps(alone(), make_taught(task, "one", 16))
    training = make_taught(task, "ranks", 4, strategy=strategy, collectives=backend)
    assert_equal(run_processes(run_steps, training, num_ranks=num_ranks, backend=backend)[0], one)


@TASKS
def test_a_restarted_training_is_that_without_a_stop_bit_for_bit(make_taught, task):
    whole = run_steps(alone(), make_taught(task, "whole"))
    for steps in (range(9), range(9, STEPS)):
        found = run_steps(alone(), make_taught(task, "parts"), steps)
        assert found["began"] == steps.start
    assert np.array_equal(found["curve"], whole["curve"][9:])
    for name, weights in whole["weights"].items():
        assert np.array_equal(found["weights"][name], weights), name
