"""Ranks that open their data at different speeds, as threads: only files go between them."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipelines.finetune import opening
from pipelines.finetune.launch.faults import JoinError, is_echo
from pipelines.finetune.opening import open_together
from pipelines.storage import Folder

NUM_RANKS = 3


def open_as_ranks(folder: Folder, works, notes=None):
    """The future of every rank, done."""
    note = (notes if notes is not None else []).append
    with ThreadPoolExecutor(NUM_RANKS) as pool:
        return [
            pool.submit(open_together, work, folder, rank=rank, world_size=NUM_RANKS, note=note)
            for rank, work in enumerate(works)
        ]


@pytest.mark.parametrize("slow", range(NUM_RANKS))
def test_no_rank_goes_on_before_the_slowest(tmp_path, slow):
    opened, seen = threading.Event(), []

    def open_slowly():
        time.sleep(0.5)
        opened.set()
        return "slow"

    works = [open_slowly if rank == slow else lambda: "fast" for rank in range(NUM_RANKS)]
    notes: list[str] = []
    note = notes.append

    def enter(rank):
        data = open_together(works[rank], Folder(str(tmp_path)), rank=rank, world_size=NUM_RANKS, note=note)
        seen.append((data, opened.is_set()))

    with ThreadPoolExecutor(NUM_RANKS) as pool:
        list(pool.map(enter, range(NUM_RANKS)))
    assert sorted(seen) == [("fast", True), ("fast", True), ("slow", True)]
    if slow > 0:
        assert "waiting for the data of 1 of 3 ranks" in notes


@pytest.mark.parametrize("broken", range(NUM_RANKS))
def test_rank_that_cannot_open_stops_the_others(tmp_path, broken):
    def fail():
        raise ValueError("no such split")

    works = [fail if rank == broken else lambda: "data" for rank in range(NUM_RANKS)]
    errors = [future.exception() for future in open_as_ranks(Folder(str(tmp_path)), works)]
    assert isinstance(errors[broken], ValueError)
    others = [error for rank, error in enumerate(errors) if rank != broken]
    assert all(isinstance(error, JoinError) and is_echo(error) for error in others)
    assert all(f"rank {broken} could not open its data" in str(error) for error in others)


def test_files_of_an_earlier_launch_do_not_count(tmp_path, monkeypatch):
    earlier = Folder(str(tmp_path)) / "1"
    open_as_ranks(earlier, [lambda: 1] * NUM_RANKS)
    monkeypatch.setattr(opening.time, "sleep", lambda seconds: pytest.fail("waits"))
    with pytest.raises(pytest.fail.Exception, match="waits"):
        open_together(lambda: 1, Folder(str(tmp_path)) / "2", rank=1, world_size=NUM_RANKS)


def test_single_rank_meets_no_one(tmp_path):
    assert open_together(lambda: "data", Folder(str(tmp_path)), rank=0, world_size=1) == "data"
    assert not list(tmp_path.iterdir())
