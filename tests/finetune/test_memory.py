"""The memory of a rank before it starts: the account of tensors, the heap, the estimate, its text."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipelines.finetune.memory import forecast
from pipelines.finetune.memory.estimate import MemoryEstimate, estimate_memory
from pipelines.finetune.memory.heap import Heap
from pipelines.finetune.memory.tensors import ShapesOnly
from pipelines.finetune.models.adapter import Adapter
from pipelines.finetune.models.architecture import Architecture
from pipelines.finetune.models.build import build_model
from pipelines.finetune.optimizer import build_optimizer, list_trainable
from pipelines.finetune.parallel import replica
from pipelines.finetune.parallel.whole_batch import keep_rows
from pipelines.finetune.preference import PreferenceLoss
from pipelines.finetune.starting_model import build_without_teacher
from pipelines.finetune.tasks.table import build_task
from pipelines.finetune.tasks.task import Draw
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
from tests.sequence_tables import make_rows, write_sequences_table

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


def estimate(training, rows, num_ranks=1):
    return estimate_memory(training, rows, num_ranks=num_ranks, vocab_size=VOCABULARY)


def measure_peak(training, rows):
    """Most bytes that torch's own allocator had given out at once, over two real steps."""
    task = build_task(training.spec)
    num_rows = min(NUM_ROWS, training.execution.micro_batch)
    parts = [np.arange(num_rows)] * (NUM_ROWS // num_rows)  # the estimate repeats the longest rows, too

    def collate(part, step):
        chosen = (
            each[part] if isinstance(each, np.ndarray) else each and [each[row] for row in part]
            for each in rows
        )
        return task.collate(type(rows)(*chosen), CPU, Draw(part, 0, step))

    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as seen:
        model = build_without_teacher(training, vocab_size=VOCABULARY, device=CPU, load_weights=True)
        optimizer = build_optimizer(list_trainable(model), training.optimization)
        for step in range(2):
            optimizer.zero_grad()
            batches = (collate(part, step) for part in parts)
            replica.accumulate(model, batches, task, num_targets=1, gather=keep_rows)
            optimizer.step()
    events = seen.profiler.kineto_results.events()
    changes = [event.nbytes() for event in events if event.name() == "[memory]"]
    return int(np.cumsum(changes).max())


@pytest.mark.parametrize("name", CASES)
def test_the_estimate_is_what_the_allocator_of_torch_counts(root, name):
    training, rows = make_case(root, name)
    expected, found = measure_peak(training, rows), estimate(training, rows)
    assert found.activations > 0
    assert found.tensors == pytest.approx(expected, rel=0.05)


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


def test_random_numbers_are_as_if_nothing_was_estimated(root):
    torch.manual_seed(7)
    expected = torch.randn(3)
    torch.manual_seed(7)
    estimate(*make_case(root, "encoder"))
    assert torch.equal(torch.randn(3), expected)


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


def test_an_adapter_is_estimated_without_reading_its_base(root, monkeypatch):
    tiny = make_training(root)
    model = build_model(tiny.architecture, tiny.spec, vocab_size=VOCABULARY, seed=0)
    model.encoder.save_pretrained(root / "base")
    (root / "base" / "model.safetensors").write_bytes(b"no weights")
    changed = replace(with_adapter({}), base=str(root / "base"))
    found = estimate(make_training(root, architecture=changed), classification_rows(NUM_ROWS, 0))
    assert found.gradients < 0.2 * found.weights


ESTIMATE = MemoryEstimate(
    weights=10**9,
    gradients=10**9,
    optimizer=2 * 10**9,
    activations=6 * 10**9,
    resident=13 * 10**9,
    num_rows=32,
    num_tokens=512,
)


def test_a_person_reads_the_parts():
    text = forecast.describe_memory(ESTIMATE, on_gpu=False)
    assert text.startswith("at least 13.88 GB a rank at its peak: weights 1.00, gradients 1.00, optim")
    assert "activations 6.00 (micro-batch of 32 sequences, up to 512 tokens)" in text
    assert text.endswith("checkpoint in writing and gaps of the allocator 3.00, process 0.89")
    assert forecast.describe_memory(ESTIMATE, on_gpu=True).startswith(
        "10.00 GB a rank at its peak on its GPU"
    )


def test_too_little_memory_names_the_settings_that_help(root):
    training = make_training(root)

    def warn(found, room):
        return forecast.warn_of_memory(found, training, num_ranks=2, room=room, on_gpu=False)

    assert warn(ESTIMATE, 14 * 10**9) == {}
    assert warn(ESTIMATE, 13 * 10**9) == {
        "memory warning": "a rank needs at least 13.88 GB, and this machine has 13.00 for each of 2 "
        "ranks; set finetune.micro_batch=16 or finetune.activation_checkpointing=true"
    }
    mostly_state = replace(ESTIMATE, optimizer=9 * 10**9, activations=10**8)
    assert "set finetune.strategy=sharded_optimizer or" in warn(mostly_state, 10**9)["memory warning"]


def test_what_cannot_be_estimated_is_said(root):
    training = make_training(root)
    found = forecast.forecast_memory(training, num_ranks=1, is_local=True)
    assert found["memory"].startswith("not known (FileNotFoundError: sequences at /no/table")


def test_the_longest_row_of_the_table_is_what_counts(root, monkeypatch):
    rows = {"train": make_rows("train", 40, num_groups=5)}
    pin = write_sequences_table(str(root / "sequences"), rows)
    training = make_training(
        root,
        task="language_modelling",
        architecture=Architecture(config={**DECODER, "max_position_embeddings": 512}),
        sequences=pin.path,
        table_id=pin.table_id,
        version=pin.version,
    )
    most = max(row["num_tokens"] for row in rows["train"])
    monkeypatch.setattr(forecast, "read_memory_limit", lambda: 10**9)
    found = forecast.forecast_memory(training, num_ranks=2, is_local=True)
    assert f"(micro-batch of 8 sequences, up to {most} tokens)" in found["memory"]
    assert "and this machine has 0.50 for each of 2 ranks" in found["memory warning"]
    assert list(forecast.forecast_memory(training, num_ranks=2, is_local=False)) == ["memory"]
