"""The losses of sequences: they add up to the loss of a step, are there once, and change nothing."""

import errno
import json
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from deltalake import DeltaTable

from pipelines import arrow_shards
from pipelines.finetune import starting_model
from pipelines.finetune.losses import record
from pipelines.finetune.losses.parts import (
    NAME,
    PARTS,
    SCHEMA,
    Part,
    forget_parts,
    list_parts,
    open_losses,
    write_part,
)
from pipelines.finetune.losses.table import commit_losses
from pipelines.finetune.models.architecture import Architecture
from pipelines.finetune.models.build import build_model
from pipelines.finetune.parallel.single import SingleProcess
from pipelines.finetune.results import read_result
from pipelines.finetune.worker import train_rank
from pipelines.storage import Folder
from tests.finetune import data
from tests.finetune.ranks import RankDiedError, alone, run_processes
from tests.finetune.test_train import DECODER, read_events
from tests.sequence_tables import make_rows, write_sequences_table

NUM_DOCUMENTS, GLOBAL_BATCH, STEPS = 100, 12, 8
DIVERGING = {"learning_rate": 1e30, "max_gradient_norm": 1e30}
DIVERGING |= {"evaluate_every_steps": STEPS, "checkpoint_every_steps": STEPS}
"""It ends before its first checkpoint."""


def train_double(world, training):
    """A training in float64. The change is undone by the test, or by the end of the rank's process."""
    real = build_model
    starting_model.build_model = lambda *args, **options: real(*args, **options).double()
    torch.set_num_threads(1)
    return train_rank(training, world)


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A sequences table; trainings are in float64."""
    monkeypatch.setenv("DISTRIBUTARY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(starting_model, "build_model", build_model)
    splits = {
        split: make_rows(split, number, num_groups=5)
        for split, number in (("train", NUM_DOCUMENTS), ("validation", 20), ("test", 20))
    }
    return write_sequences_table(str(tmp_path / "sequences"), splits)


@pytest.fixture
def make(table, tmp_path):
    """Trainings of 8 steps on that table, with checkpoints after steps 3, 4, 6 and 8."""

    def make(name, **changes):
        place = {"sequences": table.path, "table_id": table.table_id, "version": table.version}
        settings = {"num_epochs": 2.4, "global_batch": GLOBAL_BATCH, "micro_batch": 5, "window_batches": 2}
        settings |= {"evaluate_every_steps": 4, "checkpoint_every_steps": 3, "sequence_losses": True}
        settings |= {"task": "language_modelling", "architecture": Architecture(config=DECODER)}
        return data.make_training(tmp_path, folder=str(tmp_path / name), **place, **{**settings, **changes})

    return make


def read_losses(training):
    """step, epoch, rank, sequence_id, loss_sum and num_targets of all parts, by step and sequence."""
    losses = open_losses(training.folder)
    files = [file for part in list_parts(losses) for file in part.files]
    rows = [
        tuple(row.values()) for file in files for row in pq.read_table(f"{losses.path}/{file}").to_pylist()
    ]
    return sorted(rows, key=lambda row: (row[0], row[3]))


def read_step_losses(training):
    events = read_events(Path(training.folder))
    return {event["step"]: event["loss"] for event in events if event["kind"] == "step"}


def require_sums(training, num_steps=STEPS):
    """The sums of a step are its logged loss; a step has a whole batch, an epoch no sequence twice."""
    rows, logged = read_losses(training), read_step_losses(training)
    assert sorted(logged) == list(range(1, num_steps + 1))
    for step, loss in logged.items():
        of_step = [row for row in rows if row[0] == step]
        assert len(of_step) == GLOBAL_BATCH
        assert sum(row[4] for row in of_step) / sum(row[5] for row in of_step) == pytest.approx(
            loss, rel=0, abs=1e-12
        )
    visits = [(row[1], row[3]) for row in rows]
    assert len(set(visits)) == len(visits) == num_steps * GLOBAL_BATCH
    assert {row[1] for row in rows} == {1, 2, 3}
    return rows


def test_the_losses_of_a_step_add_up_to_its_loss(make, monkeypatch):
    monkeypatch.setattr(record, "MOST_TENSORS", 4)  # losses are joined on the way
    training = make("run")
    train_double(alone(), training)
    rows = require_sums(training)
    assert {row[2] for row in rows} == {0}


@pytest.mark.slow
def test_ranks_write_what_one_process_writes(make):
    model = Architecture(config=DECODER | dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0))
    one, two = make("one", architecture=model), make("two", architecture=model, collectives="torch")
    train_double(alone(), one)
    run_processes(train_double, two, num_ranks=2, backend="torch")
    rows = [require_sums(training) for training in (one, two)]
    assert {row[2] for row in rows[1]} == {0, 1}
    for first, second in zip(*rows, strict=True):
        assert (*first[:2], first[3], first[5]) == (*second[:2], second[3], second[5])
        assert first[4] == pytest.approx(second[4], rel=1e-10)


def train_until(step, training, monkeypatch):
    """Train until the checkpoint of `step` is due; it is not written."""

    def die(self, checkpoints, state):
        if state.step == step:
            raise KeyboardInterrupt
        real(self, checkpoints, state)

    real = SingleProcess.save
    with monkeypatch.context() as patched:
        patched.setattr(SingleProcess, "save", die)
        with pytest.raises(KeyboardInterrupt):
            train_double(alone(), training)


def test_a_killed_attempt_leaves_no_step_twice(make, monkeypatch):
    whole, killed = make("whole"), make("killed")
    train_double(alone(), whole)
    train_until(6, killed, monkeypatch)
    assert [(part.first, part.last) for part in list_parts(open_losses(killed.folder))] == [
        (0, 3),
        (3, 4),
        (4, 6),  # written before the checkpoint that is missing
    ]
    # It goes on from step 4, with other checkpoints, and is killed again before step 6.
    resumed = make("killed", checkpoint_every_steps=5)
    train_until(5, resumed, monkeypatch)
    parts = list_parts(open_losses(killed.folder))
    assert [(part.first, part.last) for part in parts] == [(0, 3), (3, 4), (4, 5)]
    assert len({part.folder for part in parts}) == 2
    train_double(alone(), resumed)
    parts = list_parts(open_losses(killed.folder))
    assert [(part.first, part.last) for part in parts] == [(0, 3), (3, 4), (4, 5), (5, 8)]
    assert require_sums(killed) == require_sums(whole)


def test_parts_are_a_chain_while_a_launch_removes_the_newest(tmp_path, monkeypatch):
    losses, delete, read = open_losses(str(tmp_path)), Folder.delete, Folder.read
    for first in range(6):
        write_part(losses, Part(first=first, last=first + 1, folder="launch", num_ranks=1))
    seen = []

    def delete_and_look(folder, name):
        delete(folder, name)
        seen.append([part.last for part in list_parts(losses)])

    with monkeypatch.context() as patched:
        patched.setattr(Folder, "delete", delete_and_look)
        forget_parts(losses, after=4)
    assert seen == [[1, 2, 3, 4, 5], [1, 2, 3, 4]]

    def remove_and_read(folder, name):
        if name.endswith("4.json"):
            forget_parts(losses, after=2)
        return read(folder, name)

    monkeypatch.setattr(Folder, "read", remove_and_read)
    assert [part.last for part in list_parts(losses)] == [1, 2]


def test_recording_changes_neither_losses_nor_weights(make):
    results = {}
    for name, is_on in (("on", True), ("off", False)):
        training = make(name, sequence_losses=is_on)
        assert training.identity() == make("on").identity()
        results[name] = (train_rank(training, alone())["weights"], read_step_losses(training))
        assert (Path(training.folder) / NAME).exists() == is_on
    assert results["on"] == results["off"]


def test_the_step_of_a_diverged_training_is_recorded(make):
    training = make("run", learning_rate=1e30, max_gradient_norm=1e30)
    with pytest.raises(FloatingPointError, match="loss is nan"):
        train_double(alone(), training)
    rows = read_losses(training)
    steps = {row[0] for row in rows}
    assert steps == set(range(1, len(steps) + 1))
    assert len(steps) >= 2
    assert any(row[4] != row[4] for row in rows if row[0] == max(steps))
    assert all(row[4] == row[4] for row in rows if row[0] < max(steps))
    assert read_result(training.folder) is None


def train_on_a_full_disk(world, training):
    """The last rank cannot write its losses. The change is undone as in `train_double`."""
    write = Folder.write

    def refuse(folder, name, content):
        if world.rank == world.world_size - 1 and name.endswith(".parquet"):
            raise OSError(errno.ENOSPC, "No space left on device", name)
        write(folder, name, content)

    Folder.write = refuse
    train_double(world, training)


def test_a_full_disk_hides_no_divergence(make, monkeypatch):
    monkeypatch.setattr(Folder, "write", Folder.write)  # to be restored
    with pytest.raises(FloatingPointError, match="loss is nan") as error:
        train_on_a_full_disk(alone(), make("run", **DIVERGING))
    assert "No space left on device" in error.value.__notes__[0]


@pytest.mark.slow
def test_a_rank_with_a_full_disk_hides_no_divergence_of_the_others(make):
    training = make("run", **DIVERGING, collectives="torch")
    with pytest.raises(RankDiedError) as error:
        run_processes(train_on_a_full_disk, training, num_ranks=2, backend="torch")
    accounts = str(error.value).split("\nrank 1: ")
    assert ["\nFloatingPointError: loss is nan" in account for account in accounts] == [True, True]
    assert "not written: JoinError('another rank could not write" in accounts[0]
    assert "No space left on device" in accounts[1]
    assert list_parts(open_losses(training.folder)) == []


def read_table(training):
    """The committed rows, as `read_losses` gives those of the parts; and the number of their files."""
    table = DeltaTable(open_losses(training.folder).path)
    rows = [tuple(row[name] for name in SCHEMA.names) for row in table.to_pyarrow_table().to_pylist()]
    return sorted(rows, key=lambda row: (row[0], row[3])), len(table.file_uris())


def in_pairs(function):
    """`function`, which returns only when it has been called twice at the same time."""
    both = threading.Barrier(2)

    def call(*args, **options):
        both.wait(timeout=20)
        return function(*args, **options)

    return call


def test_the_table_is_committed_once_with_all_rows(make, monkeypatch):
    training = make("run")
    assert commit_losses(training.folder, "run 1") is None
    train_until(6, training, monkeypatch)
    train_double(alone(), training)
    with monkeypatch.context() as patched:
        patched.setattr(Folder, "read", in_pairs(Folder.read))
        assert len(list_parts(open_losses(training.folder))) == 4
    with monkeypatch.context() as patched:
        patched.setattr(arrow_shards.pq, "read_metadata", in_pairs(pq.read_metadata))
        found = commit_losses(training.folder, "run 1")
    rows, num_files = read_table(training)
    assert rows == read_losses(training)
    assert found.num_rows == len(rows) == STEPS * GLOBAL_BATCH
    assert found.facts == {"run": "run 1", "first_step": 1, "last_step": STEPS}
    assert num_files == 4 < len(list(Path(open_losses(training.folder).path).glob("*/*.parquet")))
    assert (Path(open_losses(training.folder).path) / PARTS).exists()


def test_another_run_commits_only_what_is_new(make, monkeypatch):
    training = make("run")
    losses = open_losses(training.folder)
    train_until(6, training, monkeypatch)
    first = commit_losses(training.folder, "run 1")
    assert read_table(training) == (read_losses(training), 3)
    assert commit_losses(training.folder, "run 2") == first  # as when the run was deleted
    train_double(alone(), training)  # steps 5 and 6 again
    second = commit_losses(training.folder, "run 3")
    assert read_table(training) == (read_losses(training), 4)
    assert (first.num_rows, second.num_rows) == (6 * GLOBAL_BATCH, STEPS * GLOBAL_BATCH)
    log = losses.read(f"_delta_log/{second.version:020d}.json").splitlines()
    actions = [
        (kind, value["path"])
        for line in log
        for kind, value in json.loads(line).items()
        if kind in ("add", "remove")
    ]
    assert sorted(kind for kind, _ in actions) == ["add", "add", "remove"]
    assert len({path for _, path in actions}) == 3
