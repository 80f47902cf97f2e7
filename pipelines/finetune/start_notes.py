"""What a training says about itself at its start; rank 0 writes it into the events."""

import torch

from pipelines.finetune.events import EventWriter
from pipelines.finetune.parallel.strategy import Strategy

IDLE_GPU = (
    "training runs on the CPU beside an idle GPU; on a cluster set finetune.gpus_per_rank=1 and submit with "
    "--conf spark.executor.resource.gpu.amount=1; several ranks need a backend with NCCL: distributary doctor"
)


def warn_of_idle_gpu(events: EventWriter, strategy: Strategy) -> None:
    """Before the model is built, which may take minutes."""
    if strategy.device.type == "cpu" and torch.cuda.is_available() and strategy.rank == 0:
        events.write("warning", step=0, text=IDLE_GPU)


def note_start(
    events: EventWriter, strategy: Strategy, step: int, num_trained: int, num_parameters: int
) -> None:
    """Where it continues from, and how much of the model is trained if that is not all."""
    if strategy.rank > 0:
        return
    if step:
        events.write("note", step=step, text=f"continues from the checkpoint of step {step}")
    if num_trained < num_parameters:
        text = f"{num_trained:,} of {num_parameters:,} parameters are trained"
        events.write("note", step=step, text=text)
