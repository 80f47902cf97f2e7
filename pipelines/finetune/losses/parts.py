"""The parts of the table `sequence_losses`: what each sequence added to the loss of each step. No torch.

A part is the steps between two checkpoints: one Parquet file of each rank, written before the second of them.
When all ranks have written theirs, rank 0 writes `_parts/STEP.json`, named by the last step, which says after
which step the part begins and where its files are. So the parts of a training are a chain, found backwards
from the newest. A launch that continues from a checkpoint first removes the names of parts after it: their
steps are trained again, and what a killed attempt wrote of them is in no part.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import pyarrow as pa

from pipelines.storage import Folder

NAME = "sequence_losses"
"""Of the table and its folder."""
PARTS = "_parts"
NUM_READERS = 32
"""Files that are read at the same time: an object store takes tens of milliseconds to answer."""
SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("epoch", pa.int32()),
        ("rank", pa.int32()),
        ("sequence_id", pa.int64()),
        ("loss_sum", pa.float64()),
        ("num_targets", pa.int32()),
    ]
)
"""Of the files and of the table."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Steps whose losses were written together."""

    first: int
    """Steps done before it."""
    last: int
    """Steps done after it."""
    folder: str
    """Of the launch that wrote it, inside the table."""
    num_ranks: int

    @property
    def files(self) -> list[str]:
        """One of each rank, relative to the table."""
        return [name_file(self.folder, self.last, rank) for rank in range(self.num_ranks)]


def name_file(folder: str, last: int, rank: int) -> str:
    return f"{folder}/{last:08d}-{rank:05d}.parquet"


def open_losses(run_folder: str) -> Folder:
    """The folder of the table of a training."""
    return Folder(run_folder) / NAME


def write_part(losses: Folder, part: Part) -> None:
    """Make the files of `part` count. All of them must have been written."""
    losses.write(f"{PARTS}/{part.last:08d}.json", json.dumps(asdict(part)).encode())


def list_parts(losses: Folder) -> list[Part]:
    """The parts that count, in the order of their steps, without gaps up to the newest; empty if there are
    none."""
    found = _read_parts(losses)
    chain, last = list[Part](), max(found, default=0)
    while last in found:
        chain.append(found[last])
        last = chain[-1].first
    return chain[::-1]


def _read_parts(losses: Folder) -> dict[int, Part]:
    """Last step -> part."""

    def read(name: str) -> Part:
        return Part(**json.loads(losses.read(f"{PARTS}/{name}")))

    before: list[str] | None = None
    while True:
        names = (losses / PARTS).names()
        try:
            with ThreadPoolExecutor(NUM_READERS) as pool:
                return {part.last: part for part in pool.map(read, names)}
        except FileNotFoundError:
            if names == before:
                raise
            before = names  # a launch that continues removes parts at this moment: look again


def forget_parts(losses: Folder, *, after: int) -> None:
    """Remove the parts with steps beyond the first `after`: they will be trained again. The newest first, so
    that those that are left are a chain at any moment."""
    for name in reversed((losses / PARTS).names()):
        if int(name.removesuffix(".json")) > after:
            losses.delete(f"{PARTS}/{name}")
