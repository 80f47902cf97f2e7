"""Script: a training of a queue that counts instead of learning. It claims its attempt, heeds signals and
writes a summary as the real one does, and keeps its count in a file as the real one keeps checkpoints.

Arguments: path of the queue, id, number of the attempt, count at which it is done, folder of the journal.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from pipelines.finetune.queue.attempt import AttemptFolder

UNIT_SECONDS = 0.02


def main(queue: str, number: int, attempt: int, goal: int, journal: Path) -> int:
    got: list[int] = []
    for each in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(each, lambda kind, frame: got.append(kind))
    place = AttemptFolder(queue, number, attempt)
    with place.claim() as is_mine:
        if not is_mine:
            return 0
        note(journal, f"begin {number} {attempt} {os.getpid()}")
        status = count(journal / f"{number}.count", goal, got)
        note(journal, f"end {number} {attempt} {status}")
        Path(place.summary).write_text(json.dumps({"exit_code": status, "error": None, "stages": []}))
    return status


def count(file: Path, goal: int, got: list[int]) -> int:
    done = int(file.read_text()) if file.exists() else 0
    while done < goal:
        time.sleep(UNIT_SECONDS)
        done += 1
        file.write_text(str(done))
        if got:
            return {signal.SIGUSR1: 79, signal.SIGTERM: 143}[got[0]]
    return 0


def note(journal: Path, line: str) -> None:
    """One write to a file that is only appended to: lines of several processes do not mix."""
    handle = os.open(journal / "journal.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(handle, f"{time.time():.6f} {line}\n".encode())
    finally:
        os.close(handle)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5])))
