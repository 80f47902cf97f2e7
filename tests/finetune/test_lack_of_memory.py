"""A rank that runs out of memory names the batch and the settings that help."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from pipelines.finetune.lack_of_memory import explain_batch, explain_update, lacks_memory
from pipelines.finetune.launch.faults import may_pass
from pipelines.finetune.models.architecture import Architecture
from pipelines.finetune.models.classifier import EncoderClassifier
from pipelines.finetune.parallel.single import SingleProcess
from pipelines.finetune.parallel.whole_batch import accumulate_compared, keep_rows
from pipelines.finetune.preference import PreferenceLoss
from pipelines.finetune.starting_model import build_without_teacher
from pipelines.finetune.tasks.table import build_task
from pipelines.finetune.tasks.task import Batch
from pipelines.finetune.worker import train_rank
from tests.finetune.data import VOCABULARY, make_training
from tests.finetune.preferences import LLAMA, pair_rows
from tests.finetune.ranks import alone
from tests.finetune.test_retrieval import CPU, TASK, make_model, rows_of
from tests.finetune.test_task import make_spec

TOO_MUCH = 2**58
"""Bytes that no machine has: torch's own allocator refuses them."""
CUDA_TEXT = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 15.00 GiB"
PLAIN = nn.Linear(2, 2)
BATCH = Batch({"input_ids_BT": torch.zeros(6, 40, dtype=torch.int32)}, torch.zeros(6), 1.0)


def run_out_of_memory(*args, **kwargs):
    return torch.empty(TOO_MUCH, dtype=torch.uint8)


def test_a_forward_pass_without_room_names_the_batch(root, monkeypatch):
    forward, num_calls = EncoderClassifier.forward, []

    def fail_in_training(self, **inputs):
        num_calls.append(1)
        return run_out_of_memory() if self.training else forward(self, **inputs)

    monkeypatch.setattr(EncoderClassifier, "forward", fail_in_training)
    with pytest.raises(MemoryError) as raised:
        train_rank(make_training(root), alone())
    text = str(raised.value)
    assert "cpu ran out of memory with a micro-batch of 8 sequences of up to " in text
    assert "allocate" in text
    assert "set finetune.micro_batch=4, finetune.activation_checkpointing=true or " in text
    assert len(num_calls) > 1  # the evaluation before it had room
    assert not may_pass(raised.value)  # the next launch would meet it again


def test_an_evaluation_without_room_names_the_batch(root, monkeypatch):
    forward = EncoderClassifier.forward

    def fail_in_evaluation(self, **inputs):
        return run_out_of_memory() if torch.is_inference_mode_enabled() else forward(self, **inputs)

    monkeypatch.setattr(EncoderClassifier, "forward", fail_in_evaluation)
    with pytest.raises(MemoryError, match=r"micro-batch of 8 sequences of up to [0-9]+ tokens"):
        train_rank(make_training(root), alone())


def raise_of(batch, model=PLAIN):
    with pytest.raises(MemoryError) as raised, explain_batch(model, batch):
        run_out_of_memory()
    return str(raised.value)


def test_advice_counts_sequences_and_names_what_applies():
    pairs = raise_of(BATCH._replace(num_sequences=3))
    assert "a micro-batch of 3 sequences, 6 texts in all, of up to 40 tokens" in pairs
    assert "set finetune.micro_batch=1, " in pairs
    assert "max_logit_tokens" not in pairs
    assert "micro_batch=" not in raise_of(BATCH._replace(num_sequences=1))
    preference = build_task(make_spec("preference", max_tokens=32, preference=PreferenceLoss()))
    assert preference.collate(pair_rows(3, seed=0), CPU).num_sequences == 3
    assert TASK.collate(rows_of([[1], [2], [3]], [[4], [5]]), CPU).num_sequences == 2


def test_advice_leaves_out_what_is_set_already(root):
    changes = {"architecture": Architecture(config=LLAMA), "task": "language_modelling"}

    def build(**settings):
        training = make_training(root, **changes, **settings)
        return build_without_teacher(training, vocab_size=VOCABULARY, device=CPU, load_weights=True)

    few = "finetune.micro_batch=3, finetune.activation_checkpointing=true, finetune.max_logit_tokens=1024"
    goes_on = "the training continues from its newest checkpoint"
    assert raise_of(BATCH, build()).endswith(
        f"; set {few} or finetune.precision=bfloat16. Except after a change of precision, {goes_on}"
    )
    with torch.inference_mode():
        assert "micro_batch=3, finetune.max_logit_tokens=1024 or " in raise_of(BATCH, build())
    for precision in ("float16", "bfloat16"):
        model = build(precision=precision, activation_checkpointing=True)
        text = f"set finetune.micro_batch=3 or finetune.max_logit_tokens=1024. T{goes_on[1:]}"
        assert raise_of(BATCH, model).endswith(text)
    model = build(precision="float16", activation_checkpointing=True, max_logit_tokens=8)
    assert "); set finetune.micro_batch=3. The training" in raise_of(BATCH, model)
    one = BATCH._replace(num_sequences=1)
    assert "); all settings that need less are set: take shorter sequences" in raise_of(one, model)


@pytest.mark.parametrize("num_micro_batches", [1, 2])
@pytest.mark.parametrize("place", ["forward", "backward", "loss"])
def test_a_comparison_without_room_says_which_batch_is_too_large(monkeypatch, num_micro_batches, place):
    model, batch = make_model(), TASK.collate(rows_of([[1], [2]], [[4], [5]]), CPU)
    task, message = TASK, "a micro-batch of 2 sequences, 4 texts in all.*set finetune.micro_batch=1"
    if place == "forward":
        model.register_forward_pre_hook(run_out_of_memory)
    elif place == "backward":
        next(model.parameters()).register_hook(run_out_of_memory)
    else:
        task = SimpleNamespace(loss_sum=run_out_of_memory)
        message = rf"loss over all texts .* {4 * num_micro_batches} are of .*lower finetune.global_batch"
    with pytest.raises(MemoryError, match=message):
        accumulate_compared(
            model, [batch] * num_micro_batches, task, num_targets=2, gather=keep_rows, before_pass=print
        )


def test_an_update_without_room_names_the_optimizer(root, monkeypatch):
    monkeypatch.setattr(SingleProcess, "step", run_out_of_memory)
    with pytest.raises(
        MemoryError, match=r"for the state of the optimizer \(.*set finetune.strategy=sharded_op"
    ):
        train_rank(make_training(root), alone())


@pytest.mark.parametrize("explain", [explain_update, lambda: explain_batch(PLAIN, BATCH)])
def test_the_error_of_a_gpu_is_explained_and_others_are_left_alone(explain):
    with pytest.raises(MemoryError, match=r"Tried to allocate 20.00 MiB"), explain():
        raise torch.OutOfMemoryError(CUDA_TEXT)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), explain():
        nn.Linear(2, 3)(torch.ones(1, 5))
    assert lacks_memory(MemoryError())
    assert not lacks_memory(RuntimeError("CUDA error: device-side assert triggered"))
