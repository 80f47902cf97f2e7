"""Both backends give the same results to the same calls, on two and on three ranks."""

import os
import signal

import pytest
import torch

from pipelines.finetune.launch.faults import is_echo
from pipelines.finetune.parallel.collectives.interface import broadcast_tensors, own_slice, require_equal
from pipelines.finetune.parallel.collectives.table import COLLECTIVES
from tests.finetune.ranks import BACKENDS, RankDiedError, run_processes

pytestmark = [pytest.mark.slow, pytest.mark.horovod]

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64)
grid = pytest.mark.parametrize("backend", BACKENDS)


def use_every_operation(world, backend):
    collectives = COLLECTIVES[backend](torch.device("cpu"))
    size, found = 2 * world.world_size, {}
    for dtype in DTYPES:
        mine = torch.arange(size).to(dtype) + world.rank
        for operation in ("sum", "reduce_scatter", "all_gather", "broadcast"):
            value = mine.clone()
            getattr(collectives, operation)(value, name=f"{operation}.{dtype}").wait()
            found[operation, dtype] = (
                own_slice(value, collectives) if operation == "reduce_scatter" else value
            ).tolist()
    return world.rank, found


@grid
@pytest.mark.parametrize("num_ranks", [2, 3])
def test_every_operation_for_every_type(backend, num_ranks):
    results = run_processes(use_every_operation, backend, num_ranks=num_ranks, backend=backend)
    base, size = list(range(2 * num_ranks)), 2 * num_ranks
    total = [num_ranks * value + sum(range(num_ranks)) for value in base]
    owned = [base[place] + place // 2 for place in range(size)]
    for rank, found in results:
        for dtype in DTYPES:
            assert found["sum", dtype] == total
            assert found["reduce_scatter", dtype] == total[2 * rank : 2 * rank + 2]
            assert found["all_gather", dtype] == owned
            assert found["broadcast", dtype] == base


def sum_16_bit(world, backend):
    collectives = COLLECTIVES[backend](torch.device("cpu"))
    # 40000 + 40000 overflows float16 (65504 at most); 256 + 1 - 256 loses the 1 in bfloat16.
    half = torch.tensor([40_000.0 if world.rank < 2 else -40_000.0], dtype=torch.float16)
    brain = torch.tensor([[256.0, 1.0, -256.0][world.rank]], dtype=torch.bfloat16)
    for name, value in (("half", half), ("brain", brain)):
        collectives.sum(value, name=name).wait()
    return float(half), float(brain)


@grid
def test_16_bit_floats_are_summed_as_float32(backend):
    assert run_processes(sum_16_bit, backend, num_ranks=3, backend=backend) == [(40_000.0, 1.0)] * 3


def copy_odd_tensors(world, backend):
    collectives = COLLECTIVES[backend](torch.device("cpu"))
    torch.manual_seed(world.rank)
    tensors = {
        "scalar": torch.tensor(float(world.rank)),
        "empty": torch.zeros(0),
        "transposed": torch.rand(2, 3).T,
        "bool": torch.tensor([world.rank == 0, False]),
        "nan": torch.tensor([float("nan") if world.rank == 0 else 1.0]),
    }
    broadcast_tensors(collectives, tensors.items())
    return {name: tensor.tolist() for name, tensor in tensors.items()}


@grid
def test_a_broadcast_copies_any_tensor(backend):
    first, second = run_processes(copy_odd_tensors, backend, num_ranks=2, backend=backend)
    torch.manual_seed(0)
    assert first["transposed"] == torch.rand(2, 3).T.tolist()
    assert str(first) == str(second)  # as text, because nan differs from itself
    assert (second["scalar"], second["bool"], str(second["nan"])) == (0.0, [True, False], "[nan]")


def disagree(world, backend):
    require_equal(COLLECTIVES[backend](torch.device("cpu")), 5 + world.rank, "numbers of weights")


@grid
def test_ranks_that_differ_are_refused(backend):
    with pytest.raises(
        RankDiedError, match=r"numbers of weights must be equal on all ranks, got \[5, 6\] by rank"
    ):
        run_processes(disagree, backend, num_ranks=2, backend=backend)


def leave_early(world, backend):
    collectives = COLLECTIVES[backend](torch.device("cpu"))
    collectives.sum(torch.ones(1), name="both").wait()
    if world.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    with pytest.raises(Exception, match=r"\w") as caught:
        collectives.sum(torch.ones(1), name="one").wait()
    assert is_echo(caught.value)


@grid
def test_a_killed_rank_is_an_echo_on_the_others(backend):
    with pytest.raises(RankDiedError, match="rank 1: rank died with exit code -9") as caught:
        run_processes(leave_early, backend, num_ranks=2, backend=backend)
    assert "rank 0" not in str(caught.value)  # its assertion held
