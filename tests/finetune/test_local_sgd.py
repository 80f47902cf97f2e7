"""Local SGD: equal to a twin by hand in float64, resumed bit by bit, with the traffic that it promises."""

import numpy as np
import pytest
import torch

from pipelines.dataset.order import Order
from pipelines.dataset.reader import open_split
from pipelines.finetune.driver import step_metrics
from pipelines.finetune.optimization import learning_rate
from pipelines.finetune.parallel.rules import LocalSgdRules
from pipelines.finetune.preemption import REQUEST
from pipelines.finetune.results import display_result
from pipelines.finetune.tasks.table import build_task
from pipelines.finetune.times.parts import KIND
from pipelines.storage import Folder
from tests.finetune.data import make_training
from tests.finetune.ranks import RankDiedError, run_processes
from tests.finetune.test_strategies import MAX_NORM, STEPS, build_double, double_training, run_steps
from tests.finetune.test_train import die_after_checkpoint, read_events, train_in

pytestmark = [pytest.mark.slow, pytest.mark.horovod]
PLAIN = LocalSgdRules(inner_steps=4)
NESTEROV = LocalSgdRules(inner_steps=6, outer_learning_rate=0.6, outer_momentum=0.5)


def local_training(root, name, rules, **changes):
    changes = {"strategy": "local_sgd", "collectives": "torch", **changes}
    return double_training(root, name, local_sgd=rules, **changes)


def train_by_hand(training, num_ranks, num_steps=STEPS):
    """The weights by name after `num_steps`, the mean over the ranks; no code of the strategy."""
    rules, task = training.execution.local_sgd, build_task(training.spec)
    reader = open_split(
        "/no/table", table_id=training.data.table_id, version=training.data.version, split="train"
    )
    batch = training.schedule.global_batch
    order = Order(reader.lengths, global_batch=batch, total_steps=STEPS, seed=0, window_batches=5)
    models = [build_double(training, True).train() for _ in range(num_ranks)]
    decay, rate = training.optimization.weight_decay, training.optimization.learning_rate
    inner = [
        torch.optim.AdamW(
            [
                {"params": [each for each in model.parameters() if each.ndim >= 2], "weight_decay": decay},
                {"params": [each for each in model.parameters() if each.ndim < 2], "weight_decay": 0.0},
            ],
            lr=rate,
            betas=training.optimization.betas,
        )
        for model in models
    ]
    common = [each.detach().clone().requires_grad_() for each in models[0].parameters()]
    momentum = rules.outer_momentum
    outer = torch.optim.SGD(common, lr=rules.outer_learning_rate, momentum=momentum, nesterov=momentum > 0)
    for step in range(num_steps):
        rows = order.batch(step)
        for rank, (model, optimizer) in enumerate(zip(models, inner, strict=True)):
            made = task.collate(reader.rows(rows[rank::num_ranks]), torch.device("cpu"))
            optimizer.zero_grad()
            # Of equally many targets on all ranks: one a row.
            (task.loss_sum(model(**made.inputs), made) / (len(rows) / num_ranks)).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, STEPS, training.optimization)
            optimizer.step()
        if (step + 1) % rules.inner_steps == 0:
            own = zip(*(model.parameters() for model in models), strict=True)
            for each, of_ranks in zip(common, own, strict=True):
                each.grad = each.detach() - sum(of_ranks).detach() / num_ranks
            outer.step()
            for model in models:
                for each, value in zip(model.parameters(), common, strict=True):
                    each.data.copy_(value)
    states = [model.state_dict() for model in models]
    return {name: (sum(state[name] for state in states) / num_ranks).numpy() for name in states[0]}


@pytest.mark.parametrize(("rules", "num_ranks", "backend"), [(PLAIN, 2, "horovod"), (NESTEROV, 4, "torch")])
def test_ranks_do_what_a_twin_by_hand_does(root, rules, num_ranks, backend):
    training = local_training(root, "ranks", rules, collectives=backend)
    results = run_processes(run_steps, training, num_ranks=num_ranks, backend=backend)
    expected = train_by_hand(training, num_ranks)
    for name, weights in expected.items():
        assert np.abs(results[0]["weights"][name] - weights).max() < 1e-12, name
    # 20 steps end on a synchronisation of every 4, not on one of every 6: there it is the plain mean.
    losses = [result["curve"][:, 0] for result in results]
    for step in range(STEPS):
        are_equal = all(each[step] == losses[0][step] for each in losses)
        assert are_equal == ((step + 1) % rules.inner_steps == 0)
    assert losses[0][-1] < losses[0][0]


@pytest.mark.soak
def test_a_stop_between_synchronisations_changes_no_bit(root):
    whole = run_processes(run_steps, local_training(root, "whole", NESTEROV), num_ranks=2, backend="torch")
    parts = local_training(root, "parts", NESTEROV)
    for steps in (range(6), range(6, 9), range(9, STEPS)):  # on one, and between two
        found = run_processes(run_steps, parts, steps, num_ranks=2, backend="torch")
        assert found[0]["began"] == steps.start
    for one, other in zip(whole, found, strict=True):
        assert np.array_equal(one["curve"][9:], other["curve"])
    assert all(np.array_equal(found[0]["weights"][name], each) for name, each in whole[0]["weights"].items())


@pytest.mark.soak
def test_another_number_of_ranks_goes_on_from_the_mean(root):
    training = local_training(root, "run", NESTEROV)
    first = run_processes(run_steps, training, range(8), num_ranks=4, backend="torch")
    begun = run_processes(run_steps, training, range(8, 9), num_ranks=2, backend="torch")
    assert [each["began"] for each in begun] == [8, 8]
    change = max(np.abs(begun[0]["weights"][name] - each).max() for name, each in first[0]["weights"].items())
    assert 0 < change < 3 * training.optimization.learning_rate  # AdamW with the mean of the states: a step
    rest = run_processes(run_steps, training, range(9, STEPS), num_ranks=2, backend="torch")
    assert rest[0]["curve"][-1, 0] < first[0]["curve"][0, 0]


@pytest.mark.soak
def test_a_checkpoint_of_another_strategy_is_the_common_start(root):
    start = double_training(root, "run", strategy="fully_sharded", collectives="torch")
    before = run_processes(run_steps, start, range(5), num_ranks=2, backend="torch")
    training = local_training(root, "run", PLAIN)
    assert run_processes(run_steps, training, range(5, 9), num_ranks=2, backend="torch")[0]["began"] == 5
    with pytest.raises(RankDiedError, match=r"has an optimizer for each rank; continue with .*local_sgd"):
        run_processes(run_steps, start, range(9, 10), num_ranks=2, backend="torch")
    assert before[0]["curve"].shape == (5, 2)


def test_a_killed_rank_changes_nothing_in_the_end(root):
    """Evaluations every 10 steps and checkpoints every 7 fall between synchronisations every 4."""
    changes = {"strategy": "local_sgd", "collectives": "torch", "local_sgd": PLAIN}
    killed, whole = (make_training(root, folder=str(root / name), **changes) for name in ("killed", "whole"))
    marker = str(root / "was killed")
    with pytest.raises(RankDiedError, match="rank 1: rank died with exit code -9"):
        run_processes(die_after_checkpoint, killed, marker, num_ranks=2, backend="torch")
    again = run_processes(die_after_checkpoint, killed, marker, num_ranks=2, backend="torch")[0]
    expected = run_processes(train_in, whole, num_ranks=2, backend="torch")[0]
    assert again == expected  # metrics, traffic and the sha256 of the weights
    require_traffic(expected["traffic"], num_exchanges=7 + len([7, 10, 14, 21, 30]), num_steps=30)
    last = [event for event in read_events(root / "whole") if event["kind"] == "step"][-1]
    assert step_metrics(last)["train/traffic_fraction"] == pytest.approx(12 / 30)
    assert display_result(expected)["sent by each rank"].endswith("MB, 1/2.5 of data parallel")


def require_traffic(traffic, *, num_exchanges, num_steps):
    """Over a ring of two ranks, a sum of all weights sends as many bytes as they have."""
    assert traffic["synchronous_bytes"] % num_steps == 0
    assert traffic["sent_bytes"] == num_exchanges * (traffic["synchronous_bytes"] // num_steps)


@pytest.mark.soak
def test_checkpoints_between_synchronisations_do_not_change_the_weights(root):
    weights = []
    for every in (7, 30):
        training = make_training(
            root,
            folder=str(root / str(every)),
            checkpoint_every_steps=every,
            strategy="local_sgd",
            local_sgd=PLAIN,
            collectives="torch",
        )
        weights.append(run_processes(train_in, training, num_ranks=2, backend="torch")[0]["weights"])
    assert weights[0] == weights[1]


def diverge(world, training):
    """The gradient of rank 1 is not finite at the second step."""
    from pipelines.finetune.parallel.local_sgd import LocalSgd

    forward_backward, calls = LocalSgd.forward_backward, []

    def spoil(self, batches, task, *, num_targets):
        share = forward_backward(self, batches, task, num_targets=num_targets)
        calls.append(share)
        if self.rank == 1 and len(calls) == 2:
            next(each for each in self._model.parameters() if each.grad is not None).grad.fill_(float("nan"))
        return share

    LocalSgd.forward_backward = spoil
    return train_in(world, training)


def test_a_rank_that_diverges_alone_ends_the_training(root):
    training = make_training(root, strategy="local_sgd", collectives="torch", local_sgd=PLAIN)
    with pytest.raises(RankDiedError, match=r"rank 1: .*(\n.*)*gradient norm nan at step 2") as caught:
        run_processes(diverge, training, num_ranks=2, backend="torch")
    assert "FloatingPointError" not in str(caught.value).split("rank 1:")[0]  # it waited for rank 1


def test_requests_times_and_comparisons_wait_for_a_synchronisation(root):
    """30 steps of which every 4th ends on a synchronisation, logged after every 3rd."""
    changes = {"strategy": "local_sgd", "collectives": "torch", "local_sgd": PLAIN, "log_every_steps": 3}
    training = make_training(root, compare_replicas_every_steps=8, **changes)
    Folder(training.folder).write(REQUEST, b"")
    for step in (4, 8):  # the file stays
        said = run_processes(train_in, training, num_ranks=2, backend="torch")
        assert said == [{"made_room_at": step}] * 2
    Folder(training.folder).delete(REQUEST)
    result = run_processes(train_in, training, num_ranks=2, backend="torch")[0]
    assert result["total_steps"] == 30
    steps = [event["step"] for event in read_events(root / "run") if event["kind"] == KIND]
    assert [step for step in steps if step < 30] == [4, 8, 12, 16, 20, 24, 28]
