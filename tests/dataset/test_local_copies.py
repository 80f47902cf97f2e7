"""Copies that the processes of a machine share: used at the same time, never deleted while in use."""

import os
import threading
import time
import uuid

from pipelines.dataset.local_copies import open_copy

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
