"""Checkpoints that are written while the training goes on: what they hold, when they wait, how they fail."""

import errno
import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from pipelines.finetune.checkpoint.format import TrainState, complete_steps, read_record
from pipelines.finetune.checkpoint.part import Part
from pipelines.finetune.checkpoint.reading import read_file
from pipelines.finetune.checkpoint.writer import CheckpointWriter
from pipelines.finetune.events import EventReader
from pipelines.finetune.launch.faults import JoinError, may_pass
from pipelines.finetune.worker import train_rank
from pipelines.storage import Folder
from tests.finetune.checkpoints import Ranks, write_part, write_parts
from tests.finetune.data import make_training
from tests.finetune.ranks import RankDiedError, alone, run_processes

PATIENCE_SECONDS = 60


class SlowFolder(Folder):
    """Storage that writes large files when it may, or fails."""

    def __init__(self, path):
        super().__init__(path)
        self.may_write, self.asked, self.error = threading.Event(), threading.Event(), None

    def write_chunks(self, name, chunks, *, num_bytes):
        self.asked.set()
        assert self.may_write.wait(PATIENCE_SECONDS)
        if self.error is not None:
            raise self.error
        super().write_chunks(name, chunks, num_bytes=num_bytes)


@pytest.fixture
def slow(tmp_path):
    return SlowFolder(str(tmp_path / "checkpoints"))


def part_of(value, **fields):
    return Part(weights={"w": torch.full((1000,), float(value))}, **fields)


def value_of(folder, step):
    return set(read_file(folder, read_record(folder, step), "model.safetensors")["w"].tolist())


def test_a_checkpoint_holds_what_the_tensors_were(slow):
    part = part_of(1)
    with CheckpointWriter(slow, Ranks().get(0), 1, True) as writer:
        writer.write(part, TrainState(step=5))
        assert slow.asked.wait(PATIENCE_SECONDS)
        part.weights["w"].fill_(2)  # the next step, while the file is not written
        assert complete_steps(slow) == []
        writer.check()
        slow.may_write.set()
        writer.finish()
        assert complete_steps(slow) == [5]
    assert value_of(slow, 5) == {1}


def test_in_the_foreground_nothing_is_copied(slow):
    slow.may_write.set()
    with CheckpointWriter(slow, Ranks().get(0), 1, False) as writer:
        writer.write(part_of(1), TrainState(step=5))
        assert complete_steps(slow) == [5]
        assert writer._snapshot is None
    assert value_of(slow, 5) == {1}


def test_the_next_checkpoint_waits_for_the_one_before(slow):
    with CheckpointWriter(slow, Ranks().get(0), 1, True) as writer:
        writer.write(part_of(1), TrainState(step=5))
        second = threading.Thread(target=writer.write, args=(part_of(2), TrainState(step=10)))
        second.start()
        second.join(0.2)
        assert second.is_alive()
        slow.may_write.set()
        second.join(PATIENCE_SECONDS)
        assert 5 in complete_steps(slow)
    assert complete_steps(slow) == [10, 5]
    assert (value_of(slow, 5), value_of(slow, 10)) == ({1}, {2})


def check_until_it_fails(writer):
    """As a training does after each step."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        writer.check()
        time.sleep(0.01)


def test_a_full_disk_is_an_error_of_the_next_step(slow):
    write_part(Folder(slow.path), part_of(1), TrainState(step=5))
    slow.error = OSError(errno.ENOSPC, "No space left on device")
    writer = CheckpointWriter(slow, Ranks().get(0), 1, True)
    writer.write(part_of(2), TrainState(step=10))
    slow.may_write.set()
    with pytest.raises(OSError, match=r"step-00000010 cannot be written: No space left on device") as found:
        check_until_it_fails(writer)
    assert found.value.errno == errno.ENOSPC
    assert not may_pass(found.value)  # as if it had been met in the step itself
    writer.finish()  # nothing is left of it
    assert complete_steps(slow) == [5]
    assert not [file for file in Path(slow.path).rglob("*") if file.name.startswith(".writing")]


@pytest.mark.parametrize("in_background", [False, True])
def test_an_error_of_the_last_checkpoint_is_not_lost(slow, in_background):
    slow.error = OSError(errno.EIO, "Input/output error")
    slow.may_write.set()
    with (
        pytest.raises(OSError, match="step-00000005 cannot be written: Input/output error"),
        CheckpointWriter(slow, Ranks().get(0), 1, in_background) as writer,
    ):
        writer.write(part_of(1), TrainState(step=5))


def test_after_an_error_of_the_training_the_checkpoint_becomes_complete(slow):
    def fail():
        with CheckpointWriter(slow, Ranks().get(0), 1, True) as writer:
            writer.write(part_of(1), TrainState(step=5))
            raise FloatingPointError("loss is nan")

    with ThreadPoolExecutor(1) as pool:
        failing = pool.submit(fail)
        assert slow.asked.wait(PATIENCE_SECONDS)
        slow.may_write.set()
        with pytest.raises(FloatingPointError):
            failing.result()
    assert complete_steps(slow) == [5]
    assert not [each for each in threading.enumerate() if each.name == "checkpoint"]


class OneFails(Folder):
    """The files of rank 1 cannot be written."""

    def write_chunks(self, name, chunks, *, num_bytes):
        if "-00001-of-" in name:
            raise OSError(errno.EIO, "Input/output error")
        super().write_chunks(name, chunks, num_bytes=num_bytes)


def two_parts(value):
    return [part_of(value, num_parts=2), Part(number=1, num_parts=2)]


@pytest.mark.parametrize("in_background", [False, True])
def test_all_ranks_stop_if_one_cannot_write(tmp_path, in_background):
    write_part(Folder(str(tmp_path)), part_of(1), TrainState(step=5))
    folder = OneFails(str(tmp_path))
    first, second = write_parts(folder, two_parts(2), TrainState(step=10), in_background=in_background)
    assert isinstance(first, JoinError)  # an echo: the driver shows the other one
    assert "another rank could not write its part of checkpoint" in str(first)
    assert isinstance(second, OSError)
    assert complete_steps(folder) == [5]


def test_what_a_killed_launch_wrote_is_no_part(slow):
    folder = Folder(slow.path)
    assert write_parts(folder, two_parts(1), TrainState(step=5), launch=1) == [None, None]
    note = "step-00000005/part-00001-of-00002.1.json"
    folder.delete("step-00000005/complete.json")
    stale = json.loads(folder.read(note))
    stale["sha256"]["optimizer-00001-of-00002.safetensors"] = "of another file"
    folder.write(note, json.dumps(stale).encode())

    ranks = Ranks(2)

    def write(folder, rank):
        with CheckpointWriter(folder, ranks.get(rank), 2, True) as writer:
            writer.write(two_parts(2)[rank], TrainState(step=5))

    with ThreadPoolExecutor(2) as pool:  # rank 1 has the slow storage
        running = [pool.submit(write, folder, 0), pool.submit(write, slow, 1)]
        assert slow.asked.wait(PATIENCE_SECONDS)
        time.sleep(0.3)  # rank 0 looks several times
        assert complete_steps(folder) == []
        slow.may_write.set()
        for each in running:
            each.result()
    assert "of another file" not in read_record(folder, 5).files.sha256.values()
    assert value_of(folder, 5) == {2}


def test_weights_do_not_depend_on_how_checkpoints_are_written(root):
    results = []
    for in_background in (True, False):
        training = make_training(
            root,
            folder=str(root / f"{in_background}"),
            checkpoint_in_background=in_background,
            checkpoint_every_steps=1,
            ema_decay=0.8,
        )
        results.append(train_rank(training, alone()))
    assert results[0] == results[1]
    assert results[0]["weights"]
    one, other = (sorted((root / name / "checkpoints").rglob("*.safetensors")) for name in ("True", "False"))
    assert [file.name for file in one] == [file.name for file in other]
    for ours, theirs in zip(one, other, strict=True):
        assert ours.read_bytes() == theirs.read_bytes(), ours


WIDE = {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4}
"""Files of megabytes, which take long enough to be killed while they are written."""


def wide_training(root, name, **changes):
    # No evaluation before the end: it would be a checkpoint, too.
    cadence = {"evaluate_every_steps": 100, "checkpoint_every_steps": 3, "num_epochs": 1.0}
    return make_training(root, folder=str(root / name), config=WIDE, **cadence, **changes)


def train_and_die(world, training, *, rank, step):
    """Train; `rank` kills itself while a file of the checkpoint of `step` is being written."""
    torch.set_num_threads(1)
    folder = Path(training.folder) / "checkpoints" / f"step-{step:08d}"
    dies = world.rank == rank and not folder.parent.joinpath("died").exists()

    def watch():
        while True:
            for file in folder.glob(".writing-optimizer-*"):
                if file.stat().st_size > 0:
                    folder.parent.joinpath("died").touch()
                    os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.0001)

    if dies:
        threading.Thread(target=watch, daemon=True).start()
    return train_rank(training, world)


@pytest.mark.slow
@pytest.mark.horovod
@pytest.mark.parametrize(
    ("num_ranks", "strategy", "backend", "rank"),
    [(1, "single", "horovod", 0), (2, "data_parallel", "horovod", 0), (2, "sharded_optimizer", "torch", 1)],
)
def test_a_rank_killed_while_it_writes_changes_no_bit(root, num_ranks, strategy, backend, rank):
    kind = {"strategy": strategy, "collectives": backend}
    whole, killed = (wide_training(root, name, **kind) for name in ("whole", "killed"))
    expected = run_processes(train_rank_alone, whole, num_ranks=num_ranks, backend=backend)
    with pytest.raises(RankDiedError, match="exit code -9"):
        run_processes(die, killed, rank, num_ranks=num_ranks, backend=backend)
    checkpoints = root / "killed" / "checkpoints"
    assert list((checkpoints / "step-00000006").glob(".writing-*"))  # killed within a file
    assert complete_steps(Folder(str(checkpoints))) == [3]
    found = run_processes(train_rank_alone, killed, num_ranks=num_ranks, backend=backend)
    assert found[0] == expected[0]
    notes = [event.get("text") for event in EventReader(Folder(str(root / "killed" / "events"))).new()]
    assert "continues from the checkpoint of step 3" in notes


def train_rank_alone(world, training):
    torch.set_num_threads(1)
    return train_rank(training, world)


def die(world, training, rank):
    return train_and_die(world, training, rank=rank, step=6)
