"""What answers a question for memory (question.py): a pickle on its input, JSON on its output.

python -m pipelines.finetune.memory.child
"""

import json
import os
import pickle
import sys
from dataclasses import asdict
from typing import Any

from pipelines.finetune.launch.world import assign_ranks
from pipelines.finetune.memory.question import Answer, Question, describe_error


def answer(question: Question) -> dict[str, Any]:
    """The fields of an Answer; or `missing`, a library that is not installed; or `fault`, why it can't be
    known."""
    try:
        return asdict(_estimate(question))
    except ImportError as error:
        return {"missing": str(error)}
    except Exception as error:  # of any library: torch, transformers and PEFT meet tensors without values
        return {"fault": describe_error(error)}


def _estimate(question: Question) -> Answer:
    from pipelines.finetune.memory.estimate import estimate_memory

    training, device = question.training, _find_device(question)
    estimate = estimate_memory(
        training,
        question.longest,
        evaluated=question.evaluated,
        num_evaluated=question.num_evaluated,
        num_ranks=question.num_ranks,
        vocab_size=question.vocab_size,
        on_gpu=device == "cuda",
    )
    gpu_bytes = _find_gpu_bytes(training.execution.gpus_per_rank) if device == "cuda" else None
    return Answer(
        estimate=estimate, on_gpu=device == "cuda", gpu_bytes=gpu_bytes if question.is_local else None
    )


def _find_device(question: Question) -> str:
    """Type of the device of the ranks. What the machines of a cluster have is not known here: only what Spark
    gives."""
    from pipelines.finetune.parallel.table import find_device

    if question.gives_gpus or not question.is_local:
        return "cuda" if question.gives_gpus else "cpu"
    num_ranks = question.num_ranks
    world = assign_ranks(["localhost"] * num_ranks, [None] * num_ranks)[0]
    return find_device(world, question.training.execution).type


def _find_gpu_bytes(gpus_per_rank: float) -> int | None:
    """Of what a rank has of the first GPU; None = torch sees none."""
    import torch

    if not torch.cuda.device_count():
        return None
    return int((gpus_per_rank or 1.0) * torch.cuda.get_device_properties(0).total_memory)


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    # Our driver wrote these bytes.
    json.dump(answer(pickle.load(sys.stdin.buffer)), answers)  # noqa: S301
    answers.close()
