"""Checkpoints that tests write at once."""

import torch

from pipelines.finetune.checkpoint.writer import CheckpointWriter


class Alone:
    """A rank without others."""

    rank, device = 0, torch.device("cpu")

    def sum(self, value, *, name):
        return value


def write_part(folder, part, state, *, in_background=False):
    """A checkpoint of one part."""
    with CheckpointWriter(folder, Alone(), 1, in_background) as writer:
        writer.write(part, state)


def save(strategy, folder, state, *, in_background=False):
    """The checkpoint of a strategy, complete on return. Collective."""
    with CheckpointWriter(folder, strategy, 1, in_background) as writer:
        strategy.save(writer, state)
    strategy.agree()
