"""Copies of files that are to be written, in memory of the host, so that training can go on meanwhile.

A copy has the bytes of its file in blocks that stay for the next checkpoint: the pages of new memory cost
more than the copy, and pinned memory much more. So a rank holds what it writes of a checkpoint once more for
as long as it trains.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from pipelines.finetune.checkpoint.tensor_file import FileImage, TensorFile, flat_bytes

BLOCK_BYTES = 64 * 2**20
"""A power of two: torch rounds pinned memory up to one."""


class Snapshot:
    """The blocks of one rank. From a GPU they are pinned: a copy then has the full speed of the bus."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._blocks = device, list[Tensor]()

    def take(self, files: Mapping[str, TensorFile]) -> dict[str, FileImage]:
        """The files as they are now, by name. Those of the last call are overwritten."""
        room = self._offer(sum(file.num_bytes - len(file.header) for file in files.values()))
        images: dict[str, FileImage] = {}
        for name, file in files.items():
            held = list[Tensor]()
            for tensor in file.tensors:
                held += _copy(flat_bytes(tensor), room)
            images[name] = _HeldFile(file.header, held)
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()
        return images

    def _offer(self, num_bytes: int) -> "_Room":
        """Room for so many bytes."""
        missing = num_bytes - sum(len(block) for block in self._blocks)
        while missing > 0:
            # The last one is smaller, except in pinned memory.
            size = BLOCK_BYTES if self._device.type == "cuda" else min(BLOCK_BYTES, missing)
            self._blocks.append(torch.empty(size, dtype=torch.uint8, pin_memory=self._device.type == "cuda"))
            missing -= size
        return _Room(self._blocks)


class _Room:
    """Blocks that are filled one after the other."""

    def __init__(self, blocks: list[Tensor]) -> None:
        self._blocks, self._number, self._used = blocks, 0, 0

    def next(self, most: int) -> Tensor:
        """Up to `most` free bytes of one block."""
        if self._used == len(self._blocks[self._number]):
            self._number, self._used = self._number + 1, 0
        free = self._blocks[self._number][self._used : self._used + most]
        self._used += len(free)
        return free


def _copy(source: Tensor, room: _Room) -> Iterator[Tensor]:
    done = 0
    while done < len(source):
        part = room.next(len(source) - done)
        part.copy_(source[done : done + len(part)], non_blocking=True)
        yield part
        done += len(part)


class _HeldFile:
    """A file whose bytes are held."""

    def __init__(self, header: bytes, parts: list[Tensor]) -> None:
        self._header, self._parts = header, parts
        self.num_bytes = len(header) + sum(len(part) for part in parts)

    def __iter__(self) -> Iterator[memoryview]:
        yield memoryview(self._header)
        for part in self._parts:
            yield part.numpy().data
