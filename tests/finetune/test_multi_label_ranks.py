"""Multi-label classification on several ranks: as on one, in float64 to 1e-12, in any micro-batch, and after
a restart."""

from dataclasses import replace

import numpy as np
import pytest

from tests.finetune import data
from tests.finetune.ranks import alone, run_processes
from tests.finetune.test_masked_ranks import measure
from tests.finetune.test_strategies import STEPS, assert_equal, double_training, run_steps

pytestmark = [pytest.mark.slow, pytest.mark.horovod]


@pytest.fixture
def label_root(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTRIBUTARY_CACHE", str(tmp_path / "cache"))
    data.write_sequences(tmp_path / "cache", data.label_set_rows)
    return tmp_path


def label_training(root, name, micro_batch=3, **changes):
    training = double_training(root, name, task="multi_label_classification", **changes)
    return replace(training, execution=replace(training.execution, micro_batch=micro_batch))


ONE = {}


@pytest.fixture
def one(label_root):
    """The same steps by one process with one micro-batch, run once."""
    ONE["result"] = ONE.get("result") or run_steps(alone(), label_training(label_root, "one", micro_batch=16))
    assert len(ONE["result"]["curve"]) == STEPS
    assert ONE["result"]["curve"][-1, 0] < ONE["result"]["curve"][0, 0]
    return ONE["result"]


@pytest.mark.parametrize("micro_batch", [1, 5])
def test_micro_batches_equal_one(label_root, one, micro_batch):
    assert_equal(run_steps(alone(), label_training(label_root, "parts", micro_batch)), one)


@pytest.mark.parametrize(("num_ranks", "micro_batch", "backend"), [(2, 3, "horovod"), (4, 4, "torch")])
def test_ranks_equal_one_process(label_root, one, num_ranks, micro_batch, backend):
    strategy = {"strategy": "data_parallel", "collectives": backend}
    training = label_training(label_root, "ranks", micro_batch, **strategy)
    assert_equal(run_processes(run_steps, training, num_ranks=num_ranks, backend=backend)[0], one)


def test_a_restarted_training_is_that_without_a_stop_bit_for_bit(label_root):
    whole = run_steps(alone(), label_training(label_root, "whole"))
    for steps in (range(9), range(9, STEPS)):
        found = run_steps(alone(), label_training(label_root, "parts"), steps)
        assert found["began"] == steps.start
    assert np.array_equal(found["curve"], whole["curve"][9:])
    for name, weights in whole["weights"].items():
        assert np.array_equal(found["weights"][name], weights), name


def test_an_evaluation_counts_each_document_once_on_any_number_of_ranks(label_root):
    training = label_training(label_root, "run")
    expected = measure(alone(), training)
    assert 0 < expected["loss"] < 1
    assert run_processes(measure, training, num_ranks=3)[0] == pytest.approx(expected, abs=1e-12)
