"""Masked language modelling on several ranks: as on one, in float64 to 1e-12, and after a restart."""

import numpy as np
import pytest

from pipelines.dataset.reader import open_split
from pipelines.dataset.rows import NO_LABEL, Rows
from pipelines.finetune.evaluate import evaluate
from pipelines.finetune.parallel.table import build_strategy
from pipelines.finetune.tasks.table import build_task
from pipelines.storage import Folder
from tests.finetune import data
from tests.finetune.ranks import RANKS_GRID, alone, run_processes
from tests.finetune.test_strategies import STEPS, assert_equal, build_double, double_training, run_steps

pytestmark = [pytest.mark.slow, pytest.mark.horovod]

TASK = "masked_language_modelling"


def packed_rows(num_rows: int, seed: int) -> Rows:
    """Rows of one to three documents that count upwards. As in the table, the first token of a document
    is no target."""
    random = np.random.default_rng(seed)
    lengths = [random.integers(4, 11, random.integers(1, 4)).astype(np.int32) for _ in range(num_rows)]
    documents = [
        [random.integers(0, data.VOCABULARY) + np.arange(length) for length in row] for row in lengths
    ]
    num_targets = np.array([row.sum() - len(row) for row in lengths], dtype=np.int64)
    return Rows(
        input_ids=[(np.concatenate(row) % data.VOCABULARY).astype(np.int32) for row in documents],
        is_target=[np.concatenate([np.arange(length) > 0 for length in row]) for row in lengths],
        segment_lengths=lengths,
        labels=np.full(num_rows, NO_LABEL, dtype=np.int64),
        num_targets=num_targets,
        num_bytes=3 * num_targets,
    )


@pytest.fixture
def packed_root(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTRIBUTARY_CACHE", str(tmp_path / "cache"))
    data.write_sequences(tmp_path / "cache", packed_rows)
    return tmp_path


ONE = {}


@pytest.fixture
def one(packed_root):
    """The same steps by one process, run once."""
    result = ONE.get("result") or run_steps(alone(), double_training(packed_root, "one", task=TASK))
    ONE["result"] = result
    assert len(result["curve"]) == STEPS
    return result


@RANKS_GRID
def test_ranks_equal_one_process(packed_root, one, strategy, backend, num_ranks):
    training = double_training(packed_root, "ranks", task=TASK, strategy=strategy, collectives=backend)
    results = run_processes(run_steps, training, num_ranks=num_ranks, backend=backend)
    assert_equal(results[0], one)


def test_a_restarted_training_draws_the_same_masks(packed_root, one):
    for steps in (range(9), range(9, STEPS)):
        found = run_steps(alone(), double_training(packed_root, "parts", task=TASK), steps)
        assert found["began"] == steps.start
    assert_equal(found, one)


def measure(world, training, batch_rows=3):
    """Metrics of the untrained model on the validation split."""
    strategy = build_strategy(world, training.execution)
    reader = open_split("/no/table", table_id=data.TABLE_ID, version=data.VERSION, split="validation")
    strategy.build(
        lambda load_weights: build_double(training, load_weights),
        training.optimization,
        num_micro_batches=1,
        checkpoints=Folder(training.folder) / "checkpoints",
    )
    found = evaluate(build_task(training.spec), reader, strategy, batch_rows=batch_rows)
    return found.metrics


def test_an_evaluation_has_the_same_masks_every_time(packed_root):
    training = double_training(packed_root, "run", task=TASK)
    expected = measure(alone(), training)
    assert measure(alone(), training, batch_rows=40) == pytest.approx(expected, abs=1e-12)
    assert run_processes(measure, training, num_ranks=3)[0] == pytest.approx(expected, abs=1e-12)
