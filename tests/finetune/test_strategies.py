"""Every strategy equals one process: in float64 to 1e-12, over 20 steps, with clipping and accumulation.

The models are built in float64 by the test's own builder; a strategy keeps the type that it is given.
"""

from contextlib import suppress
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from pipelines.dataset.order import Order
from pipelines.dataset.reader import open_split
from pipelines.finetune.checkpoint.format import TrainState
from pipelines.finetune.loop import train
from pipelines.finetune.loss_scale import UNSCALED
from pipelines.finetune.models.build import build_model
from pipelines.finetune.models.lora import read_state
from pipelines.finetune.models.teacher import attach_teacher, load_teacher
from pipelines.finetune.parallel import buckets
from pipelines.finetune.parallel.table import build_strategy
from pipelines.finetune.rank_budget import plan_ranks
from pipelines.finetune.tasks.distillation import choose_task
from pipelines.finetune.training import BatchPlan
from pipelines.storage import Folder
from tests.finetune.checkpoints import save
from tests.finetune.data import VOCABULARY, WITHOUT_DROPOUT, make_tokenizer, make_training
from tests.finetune.ranks import BACKENDS, EXACT_GRID, alone, run_processes

pytestmark = [pytest.mark.slow, pytest.mark.horovod]

STEPS = 20
MAX_NORM = 0.5


class WithUnused(nn.Module):
    """A model with a parameter that no loss reaches, first and last in the order of parameters."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.first, self.inner = nn.Parameter(torch.ones(7, 3)), inner
        self.last = nn.Parameter(torch.ones(5, 2))

    def forward(self, **inputs):
        return self.inner(**inputs)


def build_double(training, load_weights, *, unused=False):
    model = build_model(
        training.architecture, training.spec, vocab_size=VOCABULARY, seed=training.schedule.seed
    )
    if training.teacher is not None:
        name = training.teacher.base
        teacher = load_teacher(name, name, training.spec, make_tokenizer())
        attach_teacher(model, teacher, VOCABULARY)
    plan_ranks(model, STEPS)
    model = WithUnused(model) if unused else model
    if not load_weights:  # rank 0 must send every weight but those of an adapter's base
        sent = read_state(model)
        for name, parameter in model.named_parameters():
            if name in sent:
                parameter.data.fill_(float("nan"))
    return model.double()


def run_steps(world, training, steps=range(STEPS), *, unused=False, scale=UNSCALED):
    """Train `steps`, save; losses, norms, weights on rank 0, bytes of optimizer state, the step it began
    with.
    """
    torch.set_num_threads(1)
    buckets.BUCKET_BYTES = 20_000  # several buckets, which cut parameters of a tiny model too
    strategy = build_strategy(world, training.execution)
    reader = open_split(
        "/no/table", table_id=training.data.table_id, version=training.data.version, split="train"
    )
    schedule, checkpoints = training.schedule, Folder(training.folder) / "checkpoints"
    plan = BatchPlan(
        global_batch=schedule.global_batch,
        micro_batch=training.execution.micro_batch,
        num_replicas=strategy.num_replicas,
    )
    state = strategy.build(
        partial(build_double, training, unused=unused),
        training.optimization,
        num_micro_batches=plan.num_micro_batches,
        checkpoints=checkpoints,
    )
    order = Order(
        reader.lengths, global_batch=schedule.global_batch, total_steps=STEPS, seed=0, window_batches=5
    )
    found = []

    def after_step(step, result, rows, makes_room):
        found.append((result.loss, result.gradient_norm))
        if step == steps.stop:
            save(strategy, checkpoints, TrainState(step=step), in_background=True)
            raise StopIteration

    with suppress(StopIteration):  # raised after the last of `steps`
        train(
            strategy,
            choose_task(training.spec, training.teacher),
            reader,
            order,
            steps=range(steps.start, STEPS),
            plan=plan,
            optimization=training.optimization,
            seed=schedule.seed,
            scale=scale,
            after_step=after_step,
        )
    num_bytes = sum(
        tensor.nbytes for values in strategy._optimizer.state.values() for tensor in values.values()
    )
    held = strategy.num_held_bytes() if training.execution.strategy == "fully_sharded" else None
    model = strategy.export()
    weights = model and {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    strategy.agree()
    return {
        "curve": np.array(found),
        "weights": weights,
        "bytes": num_bytes,
        "held": held,
        "began": state.step,
    }


def double_training(root, name, **changes):
    return make_training(
        root,
        folder=str(root / name),
        config=WITHOUT_DROPOUT,
        micro_batch=3,
        max_gradient_norm=MAX_NORM,
        **changes,
    )


def damage(file):
    """Flip the bits of the last byte."""
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 255]))


def assert_equal(found, expected, tolerance=1e-12):
    assert np.abs(found["curve"] - expected["curve"][-len(found["curve"]) :]).max() < tolerance
    for name, weights in expected["weights"].items():
        assert np.abs(found["weights"][name] - weights).max() < tolerance, name


@pytest.fixture(scope="module", autouse=True)
def restore_settings():
    yield
    buckets.BUCKET_BYTES = 8 * 2**20


ONE = {}


@pytest.fixture
def one(root):
    """The same steps by one process, run once; norms go over the limit, so clipping is tested too."""
    result = ONE.get("result") or run_steps(alone(), double_training(root, "one"))
    ONE["result"] = result
    assert (result["curve"][:, 1] > MAX_NORM).sum() > 5
    assert result["curve"][-1, 0] < result["curve"][0, 0]
    return result


@EXACT_GRID
def test_a_strategy_equals_one_process(root, one, strategy, backend, num_ranks):
    training = double_training(root, "ranks", strategy=strategy, collectives=backend)
    results = run_processes(run_steps, training, num_ranks=num_ranks, backend=backend)
    assert_equal(results[0], one)
    assert [result["weights"] is None for result in results] == [False] + [True] * (num_ranks - 1)
    # AdamW's two moments are cut; the step counter of each piece (4 bytes) is not.
    share = 1 if strategy == "data_parallel" else num_ranks
    counters = 4 * len(one["weights"])
    # Rows are dealt whole: of 5, four ranks own 2, 2, 1 and 0.
    rows = 0.01 * one["bytes"] if strategy == "fully_sharded" else 0
    for result in results:
        assert result["bytes"] <= one["bytes"] / share + counters + 16 * num_ranks + rows
    if share > 1:
        assert (
            one["bytes"] <= sum(result["bytes"] for result in results) <= one["bytes"] + num_ranks * counters
        )
    if strategy == "fully_sharded":  # float64: weights and two moments of 8 bytes each
        whole = sum(8 * weights.size for weights in one["weights"].values()) + one["bytes"]
        assert all(result["held"] == pytest.approx(whole / num_ranks, rel=0.1) for result in results)


@pytest.mark.parametrize(
    ("strategy", "backend"),
    [
        *product(["data_parallel", "sharded_optimizer"], BACKENDS),
        pytest.param("fully_sharded", "torch", marks=pytest.mark.soak),
    ],
)
def test_unused_parameters_stay_as_they_are(root, strategy, backend):
    expected = run_steps(alone(), double_training(root, "one"), unused=True)
    training = double_training(root, "ranks", strategy=strategy, collectives=backend)
    found = run_processes(partial(run_steps, unused=True), training, num_ranks=2, backend=backend)[0]
    assert_equal(found, expected)
    assert (found["weights"]["first"] == 1).all()  # no decay either
    assert (found["weights"]["last"] == 1).all()


CHANGES = [
    (("sharded_optimizer", 4, "torch"), ("sharded_optimizer", 2, "horovod")),
    (("sharded_optimizer", 2, "horovod"), ("sharded_optimizer", 3, "torch")),
    (("sharded_optimizer", 2, "horovod"), ("data_parallel", 2, "horovod")),
    (("sharded_optimizer", 2, "torch"), ("auto", 1, "horovod")),
    (("data_parallel", 2, "horovod"), ("sharded_optimizer", 4, "torch")),
    (("auto", 1, "horovod"), ("sharded_optimizer", 2, "torch")),
    (("auto", 1, "horovod"), ("data_parallel", 2, "torch")),
    (("fully_sharded", 4, "torch"), ("fully_sharded", 3, "torch")),
    (("data_parallel", 2, "torch"), ("fully_sharded", 2, "torch")),
    *(
        pytest.param(before, after, marks=pytest.mark.soak)
        for before, after in [
            (("fully_sharded", 2, "torch"), ("data_parallel", 3, "horovod")),
            (("fully_sharded", 3, "torch"), ("auto", 1, "horovod")),
            (("fully_sharded", 2, "torch"), ("sharded_optimizer", 3, "torch")),
            (("sharded_optimizer", 3, "torch"), ("fully_sharded", 2, "torch")),
        ]
    ),
]


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_a_checkpoint_continues_under_another_strategy(root, before, after):
    changes = {"global_batch": 12}
    expected = run_steps(alone(), double_training(root, "one", **changes))
    for (strategy, num_ranks, backend), steps in ((before, range(9)), (after, range(9, STEPS))):
        training = double_training(root, "both", strategy=strategy, collectives=backend, **changes)
        results = run_processes(run_steps, training, steps, num_ranks=num_ranks, backend=backend)
        assert results[0]["began"] == steps.start
    assert_equal(results[0], expected)


@pytest.mark.parametrize("strategy", ["data_parallel", "sharded_optimizer"])
def test_all_ranks_pass_over_a_damaged_shard(root, strategy):
    training = double_training(root, "run", strategy=strategy, collectives="torch")
    for steps in (range(5), range(5, 9)):
        run_processes(run_steps, training, steps, num_ranks=2, backend="torch")
    newest = root / "run" / "checkpoints" / "step-00000009"
    damage(sorted(newest.glob("optimizer-*.safetensors"))[-1])
    results = run_processes(run_steps, training, range(5, 9), num_ranks=2, backend="torch")
    assert [result["began"] for result in results] == [5, 5]


def test_a_damaged_only_checkpoint_starts_from_the_beginning(root, caplog):
    training = double_training(root, "run")
    run_steps(alone(), training, range(3))
    file = root / "run" / "checkpoints" / "step-00000003" / "model.safetensors"
    damage(file)
    again = run_steps(alone(), training, range(3))
    assert again["began"] == 0
    assert "does not match its sha256" in caplog.text
    assert np.isfinite(again["curve"]).all()  # rank 0's weights were loaded after all
