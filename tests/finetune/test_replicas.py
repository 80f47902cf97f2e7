"""Replicas compared: what the hash sees, and two ranks of which one loses a bit."""

import re

import pytest
import torch
from torch import nn

from pipelines.finetune.parallel import replicas
from pipelines.finetune.parallel.replicas import hash_tensors
from pipelines.finetune.parallel.table import build_strategy
from pipelines.finetune.times import view
from pipelines.finetune.worker import train_rank
from tests.finetune.data import make_training
from tests.finetune.ranks import RankDiedError, alone, run_processes

FLIPPED_AFTER = 4


def hash_of(tensor):
    return int(hash_tensors([("weight", tensor)])[1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_every_changed_element_changes_the_hash(monkeypatch, dtype):
    monkeypatch.setattr(replicas, "BLOCK", 7)  # several blocks, the last one shorter
    tensor = torch.arange(40).remainder(3).to(dtype).view(4, 10)
    before = hash_of(tensor)
    assert hash_of(tensor.clone()) == before
    for place in range(40):
        changed = tensor.clone().view(-1)
        changed[place] = not changed[place] if dtype == torch.bool else changed[place] + 1
        assert hash_of(changed) != before


def test_the_hash_depends_on_the_order(monkeypatch):
    monkeypatch.setattr(replicas, "BLOCK", 7)
    random = torch.randn(40)
    for first, second in ((0, 1), (3, 10), (0, 39)):  # within a block, and in two
        exchanged = random.clone()
        exchanged[[first, second]] = random[[second, first]]
        assert hash_of(exchanged) != hash_of(random)


def test_a_hash_does_not_depend_on_how_a_tensor_lies_in_memory():
    tensor = torch.randn(6, 5)
    assert hash_of(tensor.T.contiguous().T) == hash_of(tensor)
    assert hash_of(torch.tensor(-0.0)) != hash_of(torch.tensor(0.0))  # bits, not values


def flip_bit(model: nn.Module) -> None:
    weight = next(each for name, each in model.named_parameters() if "layer.1" in name and each.ndim == 2)
    bits = weight.detach().view(torch.int32)
    bits[3, 2] ^= 1


def train_with_fault(world, training, what):
    """Rank 1 loses the last bit of one weight, or of one number of the optimizer, after a step."""
    real = view.compare_replicas

    def compare(strategy, *, step, hosts):
        if step == FLIPPED_AFTER and strategy.rank == 1:
            if what == "weight":
                flip_bit(strategy._model)
            elif what == "state":
                state = next(iter(strategy._optimizer.state.values()))
                state["exp_avg_sq"].view(torch.int32).view(-1)[0] ^= 1
        real(strategy, step=step, hosts=hosts)

    view.compare_replicas = compare
    return train_rank(training, world)["total_steps"]


@pytest.mark.slow
@pytest.mark.horovod
@pytest.mark.parametrize(
    ("strategy", "backend", "what", "tensor"),
    [
        ("data_parallel", "horovod", "weight", r"encoder\.encoder\.layer\.1\.\S+weight"),
        ("data_parallel", "torch", "state", r"optimizer state exp_avg_sq of \S+"),
        ("sharded_optimizer", "torch", "weight", r"encoder\.encoder\.layer\.1\.\S+weight"),
    ],
)
def test_a_rank_that_differs_is_named(root, strategy, backend, what, tensor):
    training = make_training(
        root, strategy=strategy, collectives=backend, compare_replicas_every_steps=2, num_epochs=1.0
    )
    with pytest.raises(RankDiedError) as caught:
        run_processes(train_with_fault, training, what, num_ranks=2, backend=backend)
    error = str(caught.value)
    text = rf"Error: .* after step {FLIPPED_AFTER} rank 1 on 127\.0\.0\.1 differs from most"
    assert len(re.findall(text, error)) == 2, error  # on both ranks
    assert re.search(rf"the first tensor that differs is {tensor} ", error), error


@pytest.mark.slow
@pytest.mark.horovod
def test_equal_ranks_train_to_the_end(root):
    training = make_training(
        root, collectives="torch", compare_replicas_every_steps=1, num_epochs=1.0, ema_decay=0.9
    )
    assert run_processes(train_with_fault, training, "nothing", num_ranks=2, backend="torch") == [10, 10]


def test_one_rank_has_nothing_to_compare(root):
    training = make_training(root, compare_replicas_every_steps=1, num_epochs=0.5)
    assert not [*build_strategy(alone(), training.execution).replicated()]
    assert train_rank(training, alone())["total_steps"] == 5


def test_most_ranks_are_taken_to_be_right():
    text = replicas._explain([7, 8, 7, 9], "head.weight", 6, ["a", "b", "c", "d"])
    assert "rank 1 on b, rank 3 on d differs from most" in text
    assert "rank 1 on b differs" in replicas._explain([7, 8], "head.weight", 6, ["a", "b"])
