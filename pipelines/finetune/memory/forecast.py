"""What a person reads of the memory of a training before it starts: how much, for what, whether there is as
much, and which settings change it.
"""

from typing import TYPE_CHECKING

from pipelines.finetune.models.architecture import NEXT_TOKEN_TASKS
from pipelines.probe import read_memory_limit

if TYPE_CHECKING:
    from pipelines.finetune.memory.estimate import MemoryEstimate
    from pipelines.finetune.training import Training

PROCESS_BYTES = 885_000_000
"""Of a rank without a model: Python with torch, transformers and what they load, 850 MB before the first step
and 30 to 43 MB in it (torch 2.13 for CUDA on Linux). 380 MB of it are code that the ranks of a machine share.
"""


def forecast_memory(training: "Training", *, num_ranks: int, is_local: bool) -> dict[str, str]:
    """Lines for a person, in seconds; no weights are read. `is_local`: the ranks run on this machine, with
    which the estimate is compared.

    If torch is not installed here or the model can't be built, one line that says so.
    """
    if training.teacher is not None:
        return {"memory": "not known: the memory of finetune.teacher is not counted"}
    try:
        estimate, on_gpu = _estimate(training, num_ranks, is_local=is_local)
    except ImportError as error:
        return {"memory": f"not known here ({error}); install torch where this command runs"}
    except Exception as error:  # of any library: torch, transformers and PEFT meet tensors without values
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        return {"memory": f"not known ({type(error).__name__}: {reason})"}
    lines = {"memory": describe_memory(estimate, on_gpu=on_gpu)}
    if is_local:
        room = _find_room(training, num_ranks, on_gpu=on_gpu)
        lines |= warn_of_memory(estimate, training, num_ranks=num_ranks, room=room, on_gpu=on_gpu)
    return lines


def count_needed(estimate: "MemoryEstimate", *, on_gpu: bool) -> int:
    """Bytes of a rank at its peak: tensors on the GPU, or all of its process."""
    return estimate.tensors if on_gpu else estimate.resident + PROCESS_BYTES


def describe_memory(estimate: "MemoryEstimate", *, on_gpu: bool) -> str:
    """The peak of a rank and its parts."""
    tensors = (
        f"weights {_in_gb(estimate.weights)}, gradients {_in_gb(estimate.gradients)}, optimizer "
        f"{_in_gb(estimate.optimizer)}, activations {_in_gb(estimate.activations)} (micro-batch of "
        f"{estimate.num_rows} sequences, up to {estimate.num_tokens} tokens)"
    )
    total = f"{_in_gb(count_needed(estimate, on_gpu=on_gpu))} GB a rank at its peak"
    if on_gpu:
        return f"{total} on its GPU, beside what CUDA keeps: {tensors}"
    total = f"at least {total}"  # see heap.py
    gaps = max(0, estimate.resident - estimate.tensors)
    return (
        f"{total}: {tensors}, checkpoint in writing and gaps of the allocator {_in_gb(gaps)}, process "
        f"{_in_gb(PROCESS_BYTES)}"
    )


def warn_of_memory(
    estimate: "MemoryEstimate", training: "Training", *, num_ranks: int, room: int, on_gpu: bool
) -> dict[str, str]:
    """A line if a rank needs more than `room` bytes; else none."""
    needed = count_needed(estimate, on_gpu=on_gpu)
    if needed <= room:
        return {}
    share = "" if on_gpu or num_ranks == 1 else f" for each of {num_ranks} ranks"
    place = "its GPU" if on_gpu else "this machine"
    return {
        "memory warning": f"a rank needs at least {_in_gb(needed)} GB, and {place} has {_in_gb(room)}{share}"
        f"; set {' or '.join(list_remedies(estimate, training, num_ranks=num_ranks))}"
    }


def list_remedies(estimate: "MemoryEstimate", training: "Training", *, num_ranks: int) -> list[str]:
    """Settings that lower the larger part: activations, or what belongs to the weights."""
    execution = training.execution
    batch, state = list[str](), list[str]()
    if estimate.num_rows > 1:
        batch.append(f"finetune.micro_batch={estimate.num_rows // 2}")
    if not execution.activation_checkpointing:
        batch.append("finetune.activation_checkpointing=true")
    if training.spec.task in NEXT_TOKEN_TASKS and execution.max_logit_tokens is None:
        batch.append("finetune.max_logit_tokens=1024")
    if num_ranks > 1 and execution.strategy != "sharded_optimizer":
        state.append("finetune.strategy=sharded_optimizer")
    if training.optimization.optimizer != "adafactor" and execution.strategy != "sharded_optimizer":
        state.append("finetune.optimization.optimizer=adafactor")
    if training.architecture.adapter.kind is None:
        state.append("finetune.model.adapter.kind=lora")
    lasting = estimate.tensors - estimate.activations
    return (batch or state) if estimate.activations > lasting else (state or batch)


def _estimate(training: "Training", num_ranks: int, *, is_local: bool) -> "tuple[MemoryEstimate, bool]":
    """The estimate, and whether the ranks use GPUs."""
    import torch  # seconds, and a driver may not have it

    from pipelines.dataset.longest import read_longest
    from pipelines.dataset.tokenizer import read_tokenizer
    from pipelines.finetune.memory.estimate import estimate_memory

    data, execution = training.data, training.execution
    on_gpu = execution.gpus_per_rank > 0 or (is_local and torch.cuda.device_count() >= num_ranks)
    longest, _ = read_longest(
        data.sequences,
        table_id=data.table_id,
        version=data.version,
        split="train",
        num_rows=execution.micro_batch,
    )
    if not longest.input_ids:
        raise ValueError("the train split has no sequences")
    estimate = estimate_memory(
        training,
        longest,
        num_ranks=num_ranks,
        vocab_size=read_tokenizer(data.tokenizers, training.spec.tokenizer).get_vocab_size(),
        on_gpu=on_gpu,
    )
    return estimate, on_gpu


def _find_room(training: "Training", num_ranks: int, *, on_gpu: bool) -> int:
    """Bytes that this machine has for one rank."""
    if not on_gpu:
        return (read_memory_limit() or 2**63) // num_ranks
    import torch

    share = training.execution.gpus_per_rank or 1.0
    return int(share * torch.cuda.get_device_properties(0).total_memory)


def _in_gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.2f}"
