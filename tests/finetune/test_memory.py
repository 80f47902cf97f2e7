"""The memory of a rank before it starts: the account of tensors, the heap, the estimate."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipelines.dataset.rows import Rows
from pipelines.finetune.evaluate import evaluate, split_by_length, split_compared
from pipelines.finetune.memory.estimate import cut_evaluation, estimate_memory
from pipelines.finetune.memory.heap import Heap
from pipelines.finetune.memory.tensors import ShapesOnly
from pipelines.finetune.models.adapter import Adapter
from pipelines.finetune.models.architecture import Architecture
from pipelines.finetune.models.build import build_model
from pipelines.finetune.parallel.rules import LocalSgdRules
from pipelines.finetune.parallel.single import SingleProcess
from pipelines.finetune.preference import PreferenceLoss
from pipelines.finetune.starting_model import build_without_teacher
from pipelines.finetune.tasks.table import build_task
from pipelines.finetune.tasks.task import Draw
from pipelines.finetune.training import BatchPlan
from pipelines.storage import Folder
from tests.finetune import preferences
from tests.finetune.data import (
    TINY_ENCODER,
    VOCABULARY,
    classification_rows,
    label_set_rows,
    make_training,
    pair_rows,
    text_rows,
)

CPU = torch.device("cpu")
NUM_ROWS = 8
ENCODER, DECODER = {**TINY_ENCODER}, preferences.LLAMA


def with_adapter(config, kind="lora"):
    return Architecture(config=config, adapter=Adapter(kind=kind, rank=2))


CASES = {
    "encoder": (classification_rows, {}),
    "recomputed": (classification_rows, {"activation_checkpointing": True}),
    "small micro-batch": (classification_rows, {"micro_batch": 4}),
    "adapter": (classification_rows, {"architecture": with_adapter(ENCODER)}),
    "bfloat16": (classification_rows, {"precision": "bfloat16"}),
    "label sets": (label_set_rows, {"task": "multi_label_classification"}),
    "masked": (text_rows, {"task": "masked_language_modelling"}),
    "decoder": (text_rows, {"task": "language_modelling", "architecture": Architecture(config=DECODER)}),
    "few logits": (
        text_rows,
        {"task": "language_modelling", "architecture": Architecture(config=DECODER), "max_logit_tokens": 16},
    ),
    "pairs": (pair_rows, {"task": "retrieval"}),
    "preference": (
        preferences.pair_rows,
        {"task": "preference", "architecture": Architecture(config=DECODER), "preference": PreferenceLoss()},
    ),
}


def make_case(root, name):
    make_rows, changes = CASES[name]
    return make_training(root, global_batch=NUM_ROWS, **changes), make_rows(NUM_ROWS, 0)


def estimate(training, rows, num_ranks=1, num_evaluated=NUM_ROWS):
    return estimate_memory(
        training,
        rows,
        evaluated=rows,
        num_evaluated=num_evaluated,
        num_ranks=num_ranks,
        vocab_size=VOCABULARY,
    )


class RepeatedRows:
    """As a reader: the rows of a few over and over."""

    def __init__(self, rows, num_rows):
        self._rows, self._num_rows = rows, num_rows
        self.lengths = np.array([len(each) for each in rows.input_ids])[np.arange(num_rows) % NUM_ROWS]

    def __len__(self):
        return self._num_rows

    def rows(self, numbers):
        part = numbers % NUM_ROWS
        chosen = (
            each[part] if isinstance(each, np.ndarray) else each and [each[row] for row in part]
            for each in self._rows
        )
        return Rows(*chosen)


def measure_peak(training, rows, num_evaluated=NUM_ROWS):
    """Most bytes that torch's own allocator had given out at once, over two real steps and an evaluation."""
    task, strategy = build_task(training.spec), SingleProcess(CPU)
    num_rows = min(NUM_ROWS, training.execution.micro_batch)
    parts = [np.arange(num_rows)] * (NUM_ROWS // num_rows)  # the estimate repeats the longest rows, too
    trained, evaluated = RepeatedRows(rows, NUM_ROWS), RepeatedRows(rows, num_evaluated)

    def collate(part, step):
        return task.collate(trained.rows(part), CPU, Draw(part, 0, step))

    def build(load_weights):
        return build_without_teacher(training, vocab_size=VOCABULARY, device=CPU, load_weights=load_weights)

    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as seen:
        checkpoints = Folder(training.folder) / "checkpoints"
        strategy.build(build, training.optimization, num_micro_batches=len(parts), checkpoints=checkpoints)
        for step in range(2):
            strategy.forward_backward((collate(part, step) for part in parts), task, num_targets=1)
            strategy.step(max_norm=1.0, learning_rate=1e-3)
        evaluate(task, evaluated, strategy, batch_rows=training.execution.micro_batch)
    events = seen.profiler.kineto_results.events()
    changes = [event.nbytes() for event in events if event.name() == "[memory]"]
    return int(np.cumsum(changes).max())


@pytest.mark.parametrize("name", CASES)
def test_the_estimate_is_what_the_allocator_of_torch_counts(root, name):
    training, rows = make_case(root, name)
    expected, found = measure_peak(training, rows), estimate(training, rows)
    assert found.activations > 0
    assert found.tensors == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_an_evaluation_may_need_more_than_a_step(root, name):
    training, rows = make_case(root, name)
    training = replace(training, execution=replace(training.execution, micro_batch=64))
    expected, found = (do(training, rows, num_evaluated=200) for do in (measure_peak, estimate))
    assert found.in_evaluation
    assert found.num_rows == 64
    assert found.tensors == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    ("num_rows", "micro_batch", "num_ranks"), [(3, 8, 1), (200, 8, 1), (51, 64, 2), (700, 16, 4)]
)
@pytest.mark.parametrize(("name", "split"), [("encoder", split_by_length), ("pairs", split_compared)])
def test_the_evaluation_that_is_estimated_has_the_rows_of_a_real_one(
    root, name, split, num_rows, micro_batch, num_ranks
):
    training, rows = make_case(root, name)
    plan = BatchPlan(global_batch=NUM_ROWS * num_ranks, micro_batch=micro_batch, num_replicas=num_ranks)
    parts = cut_evaluation(build_task(training.spec), plan, rows, num_rows)
    blocks = split(np.arange(num_rows), np.ones(num_rows), 0, num_ranks, micro_batch)
    largest = max(blocks, key=lambda block: sum(map(len, block)))
    assert [len(part.input_ids) for part in parts] == [len(part) for part in largest]


def test_tensors_are_counted_while_they_live():
    with ShapesOnly() as account:
        first = torch.zeros(1000)  # 4 bytes each
        second = (first + 1).double()
        assert account.num_bytes == 4_000 + 8_000
        del first
        assert account.num_bytes == 8_000
        view = second[:10]
        del second
        assert account.num_bytes == 8_000  # the storage of the view
        del view
    assert (account.num_bytes, account.peak_bytes) == (0, 4_000 + 4_000 + 8_000)


def test_marks_decide_shapes_and_real_numbers_are_not_computed():
    with ShapesOnly():
        marks = torch.arange(10) % 3 == 0  # 0, 3, 6, 9
        values = torch.randn(10, 5, requires_grad=True)
        chosen = values[marks]
        assert chosen.shape == (4, 5)
        chosen.sum().backward()
        assert values.grad.shape == (10, 5)
        assert bool(marks.all()) is False
        assert (values * 7).sum().item() == 1.0


def test_a_large_model_takes_no_memory():
    with ShapesOnly() as account:
        layer = torch.nn.Linear(100_000, 100_000, bias=False)  # 40 GB
        layer(torch.zeros(3, 100_000)).sum().backward()
    assert account.peak_bytes > 80_000_000_000  # weights and gradients


def test_a_gap_of_the_same_size_is_not_used_again_and_joined_gaps_are():
    heap, kib = Heap(), 1024
    first, second, _ = (heap.take(100 * kib) for _ in range(3))
    grown = heap.resident_bytes
    heap.give(first)
    fourth = heap.take(100 * kib)  # an aligned block needs a little more than it leaves
    assert heap.resident_bytes >= grown + 100 * kib
    grown = heap.resident_bytes
    heap.give(second)
    heap.take(190 * kib)
    assert heap.resident_bytes == grown
    heap.give(fourth)
    assert heap.resident_bytes == grown  # the heap does not shrink


def test_large_blocks_are_given_back():
    heap, mib = Heap(), 2**20
    small = heap.take(1000)
    large = heap.take(40 * mib)
    assert 40 * mib <= heap.resident_bytes <= 40 * mib + 8192
    heap.give(large)
    assert heap.resident_bytes < 8192
    medium = heap.take(20 * mib)  # mapped; when it is freed, the limit becomes its size
    heap.give(medium)
    assert heap.resident_bytes < 8192
    heap.give(heap.take(19 * mib))
    assert heap.resident_bytes >= 19 * mib
    heap.give(small)


def test_ranks_with_a_sharded_optimizer_hold_half_of_its_state(root):
    one, rows = make_case(root, "encoder")
    two = replace(one, execution=replace(one.execution, strategy="sharded_optimizer"))
    whole, half = estimate(one, rows), estimate(two, rows, num_ranks=2)
    assert whole.optimizer >= 2 * whole.gradients  # two numbers for each parameter
    assert half.optimizer == pytest.approx(whole.optimizer / 2, rel=0.02)
    assert half.num_rows == whole.num_rows / 2
    plain = estimate(one, rows, num_ranks=2)
    assert plain.optimizer == pytest.approx(whole.optimizer, rel=0.02)


def test_the_copy_of_a_checkpoint_is_held_beside_a_step(root):
    training, rows = make_case(root, "encoder")
    without = replace(training, execution=replace(training.execution, checkpoint_in_background=False))
    found, waiting = estimate(training, rows), estimate(without, rows)
    # Weights and two moments, all in float32, and the number of steps of each parameter.
    assert found.checkpoint == pytest.approx(found.weights + found.optimizer, rel=0.01)
    assert found.checkpoint == pytest.approx(3 * found.weights, rel=0.02)  # buffers have no moments
    assert found.resident >= waiting.resident + 0.9 * found.checkpoint
    assert waiting.checkpoint == 0
    two = replace(training, execution=replace(training.execution, strategy="sharded_optimizer"))
    assert estimate(two, rows, num_ranks=2).checkpoint == pytest.approx(found.checkpoint / 2, rel=0.02)


def test_fully_sharded_ranks_hold_a_part_and_gather_some_layers(root):
    one, rows = make_case(root, "decoder")
    found = replace(one, execution=replace(one.execution, strategy="fully_sharded", collectives="torch"))
    plain, cut = estimate(one, rows, num_ranks=2), estimate(found, rows, num_ranks=2)
    for name in ("weights", "gradients", "optimizer"):
        assert getattr(cut, name) == pytest.approx(getattr(plain, name) / 2, rel=0.02), name
    assert plain.activations < cut.activations < plain.activations + 3 * plain.weights
    assert cut.resident >= plain.weights  # it is built whole
    assert cut.checkpoint == pytest.approx(plain.checkpoint / 2, rel=0.02)


def test_local_sgd_holds_the_common_weights_too(root):
    one, rows = make_case(root, "encoder")
    rules = LocalSgdRules(outer_momentum=0.9)
    found = replace(one, execution=replace(one.execution, strategy="local_sgd", local_sgd=rules))
    plain, local = estimate(one, rows, num_ranks=2), estimate(found, rows, num_ranks=2)
    # The common weights and their momentum.
    assert local.optimizer == pytest.approx(plain.optimizer + 2 * plain.weights, rel=0.05)
    # Of rank 0: the mean, its own weights and its moments, the common weights and their momentum.
    assert local.checkpoint == pytest.approx(plain.checkpoint + 3 * plain.weights, rel=0.05)


def test_an_adapter_is_estimated_without_reading_its_base(root, monkeypatch):
    tiny = make_training(root)
    model = build_model(tiny.architecture, tiny.spec, vocab_size=VOCABULARY, seed=0)
    model.encoder.save_pretrained(root / "base")
    (root / "base" / "model.safetensors").write_bytes(b"no weights")
    changed = replace(with_adapter({}), base=str(root / "base"))
    found = estimate(make_training(root, architecture=changed), classification_rows(NUM_ROWS, 0))
    assert found.gradients < 0.2 * found.weights
