"""What a person reads of the memory of a training before it starts: how much, for what, whether there is as
much, and which settings change it.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from pipelines.dataset.artefacts import WEIGHTS, fetch_artefact, find_artefact, is_artefact
from pipelines.finetune.memory.question import (
    Answer,
    Asker,
    MemoryEstimate,
    NoAnswerError,
    Question,
    describe_error,
)
from pipelines.finetune.models.architecture import NEXT_TOKEN_TASKS
from pipelines.finetune.parallel.rules import SHARDED
from pipelines.probe import read_memory_limit

if TYPE_CHECKING:
    from pipelines.dataset.longest import Longest
    from pipelines.finetune.training import Training

PROCESS_BYTES, SHARED_BYTES = 505_000_000, 380_000_000
"""Of a rank without a model: Python with torch, transformers and what they load, 850 MB before the first step
and 30 to 43 MB in it (torch 2.13 for CUDA on Linux). The second part is code in files, of which the ranks of
a machine share one copy."""


def forecast_memory(
    training: "Training", *, num_ranks: int, is_local: bool, gives_gpus: bool, asker: Asker | None = None
) -> dict[str, str]:
    """Lines for a person, in seconds; no weights are read. `is_local`: the ranks run on this machine, with
    which the estimate is compared. `gives_gpus`: Spark gives a GPU to each. `asker`: who asks for the
    estimate; None = one that is not in the background.

    What can't be known, such as where torch is not installed, is one line that says why.
    """
    if training.teacher is not None:
        return {"memory": "not known: the memory of finetune.teacher is not counted"}
    try:
        question = _make_question(training, num_ranks, is_local=is_local, gives_gpus=gives_gpus)
        answer = (asker or Asker()).ask(question)
    except ImportError as error:
        return {"memory": f"not known here ({error}); install torch where this command runs"}
    except NoAnswerError as error:
        return {"memory": f"not known ({error})"}
    except Exception as error:  # of any storage, or of MLflow
        return {"memory": f"not known ({describe_error(error)})"}
    lines = {"memory": describe_memory(answer, num_neighbours=num_ranks if is_local else 1)}
    room = _find_room(answer, num_ranks) if is_local else None
    return lines if room is None else lines | warn_of_memory(answer, training, num_ranks=num_ranks, room=room)


def estimate_rank(training: "Training", *, num_ranks: int, is_local: bool) -> int:
    """Bytes of this machine's memory, not of a GPU, that a rank will need at its peak.

    Raises ValueError if it trains on a GPU or has a teacher, and what `forecast_memory` turns into a line.
    """
    if training.teacher is not None:
        raise ValueError("the memory of finetune.teacher is not counted")
    question = _make_question(training, num_ranks, is_local=is_local, gives_gpus=False)
    answer = Asker().ask(question)
    if answer.on_gpu:
        raise ValueError("the estimate is of a GPU")
    return count_needed(answer, num_neighbours=num_ranks if is_local else 1)


def count_needed(answer: Answer, *, num_neighbours: int) -> int:
    """Bytes of a rank at its peak: tensors on the GPU, or all of its process, with its part of what the
    `num_neighbours` ranks of its machine share."""
    if answer.on_gpu:
        return answer.estimate.tensors
    return answer.estimate.resident + _count_process(num_neighbours)


def _count_process(num_neighbours: int) -> int:
    return PROCESS_BYTES + SHARED_BYTES // num_neighbours


def describe_memory(answer: Answer, *, num_neighbours: int) -> str:
    """The peak of a rank and its parts."""
    estimate = answer.estimate
    place = "evaluation of" if estimate.in_evaluation else "micro-batch of"
    tensors = (
        f"weights {_in_gb(estimate.weights)}, gradients {_in_gb(estimate.gradients)}, optimizer "
        f"{_in_gb(estimate.optimizer)}, activations {_in_gb(estimate.activations)} ({place} "
        f"{estimate.num_rows} sequences, up to {estimate.num_tokens} tokens)"
    )
    total = f"{_in_gb(count_needed(answer, num_neighbours=num_neighbours))} GB a rank at its peak"
    if answer.on_gpu:
        return f"{total} on its GPU, beside what CUDA keeps: {tensors}"
    total = f"at least {total}"  # see heap.py
    gaps = max(0, estimate.resident - estimate.tensors - estimate.checkpoint)
    return (
        f"{total}: {tensors}, copy of a checkpoint {_in_gb(estimate.checkpoint)}, export and gaps of the "
        f"allocator {_in_gb(gaps)}, process "
        f"{_in_gb(_count_process(num_neighbours))}"
    )


def warn_of_memory(answer: Answer, training: "Training", *, num_ranks: int, room: int) -> dict[str, str]:
    """A line if each of `num_ranks` ranks of this machine needs more than `room` bytes; else none."""
    needed = count_needed(answer, num_neighbours=num_ranks)
    if needed <= room:
        return {}
    share = "" if answer.on_gpu or num_ranks == 1 else f" for each of {num_ranks} ranks"
    place = "its GPU" if answer.on_gpu else "this machine"
    remedies = list_remedies(answer.estimate, training, num_ranks=num_ranks)
    advice = f"set {' or '.join(remedies)}" if remedies else "take a smaller model or a larger machine"
    return {
        "memory warning": f"a rank needs at least {_in_gb(needed)} GB, and {place} has {_in_gb(room)}{share}"
        f"; {advice}"
    }


def list_remedies(estimate: MemoryEstimate, training: "Training", *, num_ranks: int) -> list[str]:
    """Settings that lower the larger part: activations, or what belongs to the weights."""
    execution = training.execution
    batch, state = list[str](), list[str]()
    if estimate.num_rows > 1:
        batch.append(f"finetune.micro_batch={estimate.num_rows // 2}")
    if not execution.activation_checkpointing and not estimate.in_evaluation:
        batch.append("finetune.activation_checkpointing=true")
    if training.spec.task in NEXT_TOKEN_TASKS and execution.max_logit_tokens is None:
        batch.append("finetune.max_logit_tokens=1024")
    if estimate.checkpoint:
        state.append("finetune.checkpoint_in_background=false")
    if num_ranks > 1 and execution.strategy not in SHARDED:
        state.append("finetune.strategy=sharded_optimizer")
    if num_ranks > 1 and execution.strategy == "sharded_optimizer":
        state.append("finetune.strategy=fully_sharded")
    if training.optimization.optimizer != "adafactor" and execution.strategy not in SHARDED:
        state.append("finetune.optimization.optimizer=adafactor")
    if training.architecture.adapter.kind is None:
        state.append("finetune.model.adapter.kind=lora")
    lasting = estimate.tensors - estimate.activations + estimate.checkpoint
    return (batch or state) if estimate.activations > lasting else (state or batch)


def _make_question(training: "Training", num_ranks: int, *, is_local: bool, gives_gpus: bool) -> Question:
    """Raises what the table and the tokenizer raise, ValueError if there are no sequences."""
    from pipelines.dataset.tokenizer import read_tokenizer

    longest = _read_longest(training, "train")
    evaluated, num_evaluated = _find_evaluated(training)
    return Question(
        training=_bring_base(training),
        longest=longest.rows,
        evaluated=evaluated.rows,
        num_evaluated=num_evaluated,
        num_ranks=num_ranks,
        vocab_size=read_tokenizer(training.data.tokenizers, training.spec.tokenizer).get_vocab_size(),
        is_local=is_local,
        gives_gpus=gives_gpus,
    )


def _read_longest(training: "Training", split: str) -> "Longest":
    from pipelines.dataset.longest import read_longest

    data = training.data
    found = read_longest(
        data.sequences,
        table_id=data.table_id,
        version=data.version,
        split=split,
        num_rows=training.execution.micro_batch,
    )
    if not found.rows.input_ids:
        raise ValueError(f"the {split} split has no sequences")
    return found


def _find_evaluated(training: "Training") -> "tuple[Longest, int]":
    """The rows of the evaluation whose forward passes are the largest, and how many it measures."""
    data, micro_batch = training.data, training.execution.micro_batch
    splits = {data.evaluation_split, data.final_split} if data.fold is None else {"train"}
    parts = 1 if data.fold is None else data.fold.num_folds
    most = training.cadence.max_evaluation_sequences or 2**63
    found = [_read_longest(training, split) for split in sorted(splits)]
    measured = [
        (each, most if each.num_rows is None else min(most, -(-each.num_rows // parts))) for each in found
    ]
    return max(measured, key=lambda pair: min(micro_batch, pair[1]) * len(pair[0].rows.input_ids[0]))


def _bring_base(training: "Training") -> "Training":
    """With a folder of this machine in place of a base that MLflow keeps. Its weights are not brought."""
    base = training.architecture.base
    if base is None or not is_artefact(base):
        return training
    artefact = find_artefact(base)
    small = [name for name in artefact.files if not name.endswith(WEIGHTS)]
    folder = str(fetch_artefact(artefact, small))
    return replace(training, architecture=replace(training.architecture, base=folder))


def _find_room(answer: Answer, num_ranks: int) -> int | None:
    """Bytes that this machine has for one rank; None = it has no such GPU."""
    return answer.gpu_bytes if answer.on_gpu else (read_memory_limit() or 2**63) // num_ranks


def _in_gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.2f}"
