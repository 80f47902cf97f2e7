"""Checkpoints that tests write at once, by one rank or by several in threads."""

import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from pipelines.finetune.checkpoint.writer import CheckpointWriter


class Ranks:
    """Ranks as threads: what a writer needs of a strategy."""

    def __init__(self, world_size=1):
        self.world_size, self._barrier = world_size, threading.Barrier(world_size, timeout=60)
        self._values = [torch.zeros(1)] * world_size

    def get(self, rank):
        return _Rank(self, rank)

    def sum(self, rank, value):
        self._values[rank] = value.clone()
        self._barrier.wait()
        total = sum(self._values)
        self._barrier.wait()
        return total


class _Rank:
    device = torch.device("cpu")

    def __init__(self, ranks, rank):
        self.rank, self._ranks = rank, ranks

    def sum(self, value, *, name):
        return self._ranks.sum(self.rank, value)


def write_parts(folder, parts, state, *, in_background=False, launch=1):
    """A checkpoint of these parts, one of each rank; by rank, the error or None."""
    ranks = Ranks(len(parts))

    def write(rank):
        try:
            with CheckpointWriter(folder, ranks.get(rank), launch, in_background) as writer:
                writer.write(parts[rank], state)
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(parts)) as pool:
        return list(pool.map(write, range(len(parts))))


def write_part(folder, part, state, *, in_background=False):
    """A checkpoint of one part."""
    (error,) = write_parts(folder, [part], state, in_background=in_background)
    if error is not None:
        raise error


def save(strategy, folder, state, *, in_background=False):
    """The checkpoint of a strategy, complete on return. Collective."""
    with CheckpointWriter(folder, strategy, 1, in_background) as writer:
        strategy.save(writer, state)
    strategy.agree()
