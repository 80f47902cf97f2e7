"""Copies that the processes of a machine share: used at the same time, never deleted while in use."""

import os
import shutil
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipelines.dataset import local_copies
from pipelines.dataset.local_copies import make_room, open_copy

DAY = 24 * 3600


def run_within(seconds, function):
    """Run a function in a thread. Fails if it is not done after `seconds`: it waits for a lock."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it waits for another user of the copy"


def make_file(folder):
    (folder / "file").write_text("made")


def test_users_of_a_copy_do_not_wait_for_each_other(tmp_path):
    opened = []

    def use():
        with open_copy(tmp_path, "copy", make_file) as folder:
            opened.append((folder / "file").read_text())

    with open_copy(tmp_path, "copy", make_file):
        for _ in range(3):
            run_within(10, use)
    assert opened == ["made"] * 3


def test_a_copy_in_use_is_not_pruned(tmp_path):
    name = f"{uuid.uuid4()}-3-train-2"
    other = f"{uuid.uuid4()}-3-train-2"

    def make_other():
        with open_copy(tmp_path, other, make_file):
            pass

    with open_copy(tmp_path, name, make_file) as folder:
        old = time.time() - 8 * DAY  # a training that takes longer than a week
        os.utime(folder, (old, old))
        run_within(10, make_other)
        assert (folder / "file").exists()
    (tmp_path / other).rename(tmp_path / "gone")
    make_other()
    assert not folder.exists()  # nobody uses it now


def test_an_old_copy_that_is_continued_is_not_pruned(tmp_path):
    partial = tmp_path / ".making-copy"
    partial.mkdir()
    (partial / "half").write_text("left by a process that was killed")

    def continue_half(folder):
        assert (folder / "half").exists()
        assert time.time() - folder.stat().st_mtime < DAY
        with open_copy(tmp_path, "another", make_file):
            pass
        assert (folder / "half").exists()

    old = time.time() - 6.9 * DAY  # our own prune keeps it
    os.utime(partial, (old, old))
    with open_copy(tmp_path, "copy", continue_half) as folder:
        assert (folder / "half").exists()


def make_bytes(folder):
    (folder / "file").write_bytes(b"x" * 100_000)


def fill(home, *ages):
    """Copies of 100 kB, opened `age` days ago; their folders, oldest first."""
    folders = []
    for age in ages:
        with open_copy(home, f"{uuid.uuid4()}-3-train-2", make_bytes) as folder:
            folders.append(folder)
        os.utime(folder, (time.time() - age * DAY,) * 2)
    return folders


def exist(folders):
    return [folder.exists() for folder in folders]


def test_room_is_made_by_deleting_what_was_opened_longest_ago(tmp_path):
    folders = fill(tmp_path, 3, 2, 1)
    assert make_room(tmp_path, 100_000, max_bytes=350_000) >= 100_000
    assert exist(folders) == [False, True, True]
    assert make_room(tmp_path, 100_000, max_bytes=350_000) >= 100_000  # it fits already
    assert exist(folders) == [False, True, True]


def test_room_is_not_made_from_copies_in_use(tmp_path):
    oldest, younger, youngest = fill(tmp_path, 3, 2, 1)
    with open_copy(tmp_path, oldest.name, make_bytes):
        os.utime(oldest, (time.time() - 3 * DAY,) * 2)
        assert make_room(tmp_path, 100_000, max_bytes=350_000) >= 100_000
        assert exist([oldest, younger, youngest]) == [True, False, True]
        assert make_room(tmp_path, 200_000, max_bytes=350_000) >= 200_000
        assert exist([oldest, younger, youngest]) == [True, False, False]


def test_nothing_is_deleted_if_that_is_not_enough(tmp_path):
    folders = fill(tmp_path, 3, 2, 1)
    with open_copy(tmp_path, folders[0].name, make_bytes):
        room = make_room(tmp_path, 300_000, max_bytes=350_000)
        assert 200_000 < room < 300_000  # without the one in use it would be 350,000
        assert make_room(tmp_path, 10**18) < 10**18  # more than the disk has
        assert exist(folders) == [True, True, True]


def test_a_file_counts_as_large_as_it_will_be(tmp_path):
    folders = fill(tmp_path, 2, 1)
    with (folders[1] / "sparse").open("wb") as file:
        file.truncate(10**6)
    assert make_room(tmp_path, 100_000, max_bytes=1_250_000) >= 100_000
    assert exist(folders) == [False, True]


def test_room_is_not_made_from_files_that_are_not_copies(tmp_path):
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "file").write_bytes(b"x" * 100_000)
    assert make_room(tmp_path, 10**18) < 10**18
    assert thesis.exists()


def test_half_a_deleted_copy_is_never_visible(tmp_path, monkeypatch):
    (folder,) = fill(tmp_path, 8)

    def killed(path, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            make_room(tmp_path, 100_000, max_bytes=150_000)
    assert not folder.exists()
    (left,) = tmp_path.glob(".removed-*")
    fill(tmp_path, 0)  # the next copy that is made takes the rest away
    assert not left.exists()


def test_all_users_of_a_new_copy_use_it_at_once(tmp_path, monkeypatch):
    """Whoever looked before the copy was there must not wait until the one who made it is done with it."""
    num_users, made, try_lock = 6, [], local_copies._try_lock

    def make(folder):
        made.append(folder)
        make_file(folder)

    for number in range(10):
        nothing_there, together = threading.Barrier(num_users), threading.Barrier(num_users)
        have_looked = threading.local()

        def try_lock_when_all_have_looked(copy, barrier=nothing_there, mine=have_looked):
            if not hasattr(mine, "once"):
                mine.once = barrier.wait(20)
            return try_lock(copy)

        def use(_, name=f"copy{number}", barrier=together):
            with open_copy(tmp_path, name, make):
                barrier.wait(20)  # raises in all threads if one of them does not come

        monkeypatch.setattr(local_copies, "_try_lock", try_lock_when_all_have_looked)
        with ThreadPoolExecutor(num_users) as pool:
            assert list(pool.map(use, range(num_users))) == [None] * num_users
    assert len(made) == 10
