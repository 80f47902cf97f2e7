"""Ranks open their data, however long it takes, and wait for each other by files.

The first rank on a machine copies the splits to its disk, which can take half an hour and takes longer on one
machine than on another. A rank that waited in a collective would be taken for stalled, and the training
aborted. So ranks meet in the run folder: each writes a file when its data is open, and rank 0 writes one more
when it sees all of them. A rank that fails says so, and the others stop. (If a rank dies, Spark
ends the tasks of the stage.)
"""

import secrets
import time
from collections.abc import Callable
from typing import TypeVar

import torch

from pipelines.finetune.launch.faults import JoinError
from pipelines.finetune.parallel.strategy import Strategy
from pipelines.storage import Folder

FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 0.05, 5.0
"""Between looks at the folder: short at first, for small data."""
ALL, FAILED = "all", "failed"

_Data = TypeVar("_Data")


def require_shared_folder(run: Folder, strategy: Strategy) -> int:
    """A number that no other launch of this training has. Collective.

    Raises FileNotFoundError, before hours of training, on a rank that cannot read what rank 0 writes in the
    run folder, and JoinError on the others.
    """
    number = secrets.randbelow(2**52)
    if strategy.rank == 0:
        run.write("started", str(number).encode())
    number = int(strategy.agree(number))
    sees = run.exists("started") and int(run.read("started")) == number
    # If one rank does not see the folder, all stop: next, they wait there for each other.
    num_blind = strategy.sum(torch.tensor([float(not sees)]), name="shared_folder").item()
    if sees and num_blind:
        raise JoinError("another rank does not see the run folder")
    if not sees:
        raise FileNotFoundError(
            f"rank {strategy.rank} does not see what rank 0 writes in {run.path}; "
            "put the root on storage that all machines share"
        )
    return number


def open_together(
    open_data: Callable[[], _Data],
    meeting: Folder,
    *,
    rank: int,
    world_size: int,
    note: Callable[[str], None] = lambda text: None,
) -> _Data:
    """The result of `open_data`, when every rank has one.

    `meeting`: a folder that all ranks of this launch know and no other launch uses. `note` is told on
    rank 0 how many ranks are ready. Raises JoinError if `open_data` failed on another rank.
    """
    if world_size == 1:
        return open_data()
    try:
        opened = open_data()
        meeting.write(f"rank-{rank}", b"")
        pause = FIRST_PAUSE_SECONDS
        while not _all_are_ready(meeting, rank, world_size, note):
            time.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE_SECONDS)
    except JoinError:  # the others know it
        raise
    except BaseException:
        # Not suppressed: if this write fails, too, its error makes Spark end the ranks that wait.
        meeting.write(FAILED, str(rank).encode())
        raise
    return opened


def _all_are_ready(meeting: Folder, rank: int, world_size: int, note: Callable[[str], None]) -> bool:
    """One look. Only rank 0 lists the folder: a thousand lists of a thousand files would cost a lot."""
    if meeting.exists(FAILED):
        raise JoinError(f"rank {meeting.read(FAILED).decode()} could not open its data")
    if rank > 0:
        return meeting.exists(ALL)
    num_ready = sum(name.startswith("rank-") for name in meeting.names())
    if num_ready < world_size:
        note(f"waiting for the data of {world_size - num_ready} of {world_size} ranks")
        return False
    meeting.write(ALL, b"")
    return True
