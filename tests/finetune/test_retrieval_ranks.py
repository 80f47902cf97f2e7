"""Retrieval on several ranks: as on one, in float64 to 1e-12, in any micro-batch, and after a restart."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipelines.finetune.parallel.collectives.table import COLLECTIVES
from pipelines.finetune.parallel.group import gather_rows
from pipelines.finetune.parallel.whole_batch import Compared
from tests.finetune import data
from tests.finetune.ranks import BACKENDS, EXACT_GRID, alone, run_processes
from tests.finetune.test_masked_ranks import measure
from tests.finetune.test_strategies import STEPS, assert_equal, double_training, run_steps

pytestmark = [pytest.mark.slow, pytest.mark.horovod]


@pytest.fixture
def pair_root(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTRIBUTARY_CACHE", str(tmp_path / "cache"))
    data.write_sequences(tmp_path / "cache", data.pair_rows)
    return tmp_path


def pair_training(root, name, micro_batch=3, **changes):
    training = double_training(root, name, task="retrieval", **changes)
    return replace(training, execution=replace(training.execution, micro_batch=micro_batch))


ONE = {}


@pytest.fixture
def one(pair_root):
    """The same steps by one process with one micro-batch, run once."""
    training = pair_training(pair_root, "one", micro_batch=16)
    result = ONE.get("result") or run_steps(alone(), training)
    ONE["result"] = result
    assert len(result["curve"]) == STEPS
    assert result["curve"][-1, 0] < result["curve"][0, 0]
    return result


@pytest.mark.parametrize("micro_batch", [1, 5, 8])
def test_micro_batches_equal_one(pair_root, one, micro_batch):
    training = pair_training(pair_root, "parts", micro_batch)
    assert_equal(run_steps(alone(), training), one)


@EXACT_GRID
def test_ranks_equal_one_process(pair_root, one, strategy, backend, num_ranks):
    micro_batch = {2: 3, 4: 4}[num_ranks]
    training = pair_training(pair_root, "ranks", micro_batch, strategy=strategy, collectives=backend)
    results = run_processes(run_steps, training, num_ranks=num_ranks, backend=backend)
    assert_equal(results[0], one)


def test_a_restarted_training_equals_one_without_a_stop(pair_root, one):
    for steps in (range(9), range(9, STEPS)):
        found = run_steps(alone(), pair_training(pair_root, "parts"), steps)
        assert found["began"] == steps.start
    assert_equal(found, one)


def test_an_evaluation_compares_the_same_rows_on_any_number_of_ranks(pair_root):
    training = pair_training(pair_root, "run")
    expected = measure(alone(), training)
    assert 0 <= expected["recall_at_1"] < expected["mrr"] < 1
    assert measure(alone(), training, batch_rows=40) == pytest.approx(expected, abs=1e-12)
    assert run_processes(measure, training, num_ranks=3)[0] == pytest.approx(expected, abs=1e-12)


def gather(world, backend):
    """Rank r brings r + 1 rows, whose outputs and targets count up through the ranks."""
    first = sum(range(1, world.rank + 1))
    numbers = torch.arange(first, first + world.rank + 1)
    outputs, targets = numbers[:, None] + torch.tensor([0.25, 0.5, 0.75]), torch.stack([numbers, -numbers], 1)
    found = gather_rows(COLLECTIVES[backend](torch.device("cpu")), Compared(outputs.double(), targets))
    return found.rows.outputs.numpy(), found.rows.targets.numpy(), found.own, found.num_replicas


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_of_all_ranks_come_together_in_their_order(backend):
    for rank, found in enumerate(run_processes(gather, backend, num_ranks=3, backend=backend)):
        outputs, targets, own, num_replicas = found
        assert np.array_equal(outputs, np.arange(6)[:, None] + np.array([0.25, 0.5, 0.75]))
        assert np.array_equal(targets, np.stack([np.arange(6), -np.arange(6)], axis=1))
        assert (own.start, own.stop) == [(0, 1), (1, 3), (3, 6)][rank]
        assert num_replicas == 3
