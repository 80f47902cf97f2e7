"""Preferences on several ranks: as on one, in float64 to 1e-12, with micro-batches, and from a base."""

from dataclasses import replace

import pytest

from pipelines.finetune.models.architecture import Architecture
from pipelines.finetune.models.build import build_model
from pipelines.finetune.models.folder import save_model
from pipelines.finetune.preference import PreferenceLoss
from pipelines.finetune.worker import train_rank
from tests.finetune.data import VOCABULARY, make_tokenizer, make_training
from tests.finetune.preferences import LLAMA, write_pairs
from tests.finetune.ranks import RANKS_GRID, alone, run_processes
from tests.finetune.test_strategies import STEPS, assert_equal, double_training, run_steps

pytestmark = [pytest.mark.slow, pytest.mark.horovod]

LOSSES = {"dpo": PreferenceLoss(), "orpo": PreferenceLoss(loss="orpo")}
ONE = {}


@pytest.fixture
def pairs_root(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTRIBUTARY_CACHE", str(tmp_path / "cache"))
    write_pairs(tmp_path / "cache")
    return tmp_path


def pairs_training(root, name, loss, **changes):
    return double_training(
        root,
        name,
        task="preference",
        preference=LOSSES[loss],
        architecture=Architecture(config=LLAMA),
        **changes,
    )


@pytest.fixture
def one(pairs_root, request):
    """The same steps by one process, run once for each loss."""
    loss = request.getfixturevalue("loss")
    result = ONE.get(loss) or run_steps(alone(), pairs_training(pairs_root, "one", loss))
    ONE[loss] = result
    assert len(result["curve"]) == STEPS
    assert result["curve"][-1, 0] < result["curve"][0, 0]
    return result


@RANKS_GRID
@pytest.mark.parametrize("loss", LOSSES)
def test_ranks_equal_one_process(pairs_root, one, loss, strategy, backend, num_ranks):
    training = pairs_training(pairs_root, "ranks", loss, strategy=strategy, collectives=backend)
    results = run_processes(run_steps, training, num_ranks=num_ranks, backend=backend)
    assert_equal(results[0], one)


@pytest.mark.parametrize("loss", LOSSES)
def test_micro_batches_change_nothing(pairs_root, one, loss):
    training = pairs_training(pairs_root, "whole", loss)
    assert training.execution.micro_batch == 3
    training = replace(training, execution=replace(training.execution, micro_batch=16))
    assert_equal(run_steps(alone(), training), one)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_restarted_training_equals_a_whole_one(pairs_root, one, loss):
    for steps in (range(9), range(9, STEPS)):
        found = run_steps(alone(), pairs_training(pairs_root, "parts", loss), steps)
        assert found["began"] == steps.start
    assert_equal(found, one)


def test_ranks_have_the_reference_of_the_base(pairs_root):
    """Only rank 0 gets weights of the base to train, but every rank reads them."""
    start = make_training(
        pairs_root, task="preference", preference=LOSSES["dpo"], architecture=Architecture(config=LLAMA)
    )
    base = build_model(start.architecture, start.spec, vocab_size=VOCABULARY, seed=7)
    save_model(base, make_tokenizer().to_str(), start.spec, pairs_root / "base")
    alone_in, together = (
        make_training(
            pairs_root,
            folder=str(pairs_root / name),
            task="preference",
            preference=LOSSES["dpo"],
            architecture=Architecture(base=str(pairs_root / "base")),
        )
        for name in ("alone", "together")
    )
    expected = train_rank(alone_in, alone())
    found = run_processes(train_rank_in, together, num_ranks=2)[0]
    for metrics in ("before", "after"):
        assert found[metrics] == pytest.approx(expected[metrics], abs=1e-4)


def train_rank_in(world, training):
    return train_rank(training, world)
