"""Whole trainings on a small data set: equal at any number of ranks, and after any interruption."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from pipelines.finetune.parallel import buckets
from pipelines.finetune.results import read_result, read_sample
from pipelines.finetune.training import BatchPlan
from pipelines.finetune.worker import train_rank
from tests.finetune.data import WITHOUT_DROPOUT, make_training
from tests.finetune.ranks import RankDiedError, alone, run_processes

DECODER = {
    "model_type": "gpt2",
    "n_embd": 32,
    "n_layer": 1,
    "n_head": 2,
    "n_positions": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
GRID = pytest.mark.parametrize(
    ("strategy", "backend"),
    [
        ("data_parallel", "horovod"),
        ("sharded_optimizer", "horovod"),
        ("sharded_optimizer", "torch"),
        ("fully_sharded", "torch"),
    ],
)


def read_events(folder: Path) -> list[dict]:
    return [
        json.loads(line)
        for file in sorted((folder / "events").iterdir())
        for line in file.read_text().splitlines()
    ]


def read_losses(folder: Path) -> dict[int, float]:
    return {event["step"]: event["loss"] for event in read_events(folder) if event["kind"] == "step"}


def train_in(world, training):
    """Train with buckets so small that a tiny model has several."""
    buckets.BUCKET_BYTES = 20_000
    return train_rank(training, world)


def die_after_checkpoint(world, training, marker):
    """As `train_in`; rank 1 is killed once, when the checkpoint of step 10 is complete."""

    def die():
        while not (Path(training.folder) / "checkpoints" / "step-00000010" / "complete.json").exists():
            time.sleep(0.001)
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)

    if world.rank == 1 and not Path(marker).exists():
        threading.Thread(target=die, daemon=True).start()
    return train_in(world, training)


@pytest.mark.slow
@pytest.mark.horovod
def test_one_rank_and_two_give_the_same_losses(root):
    for num_ranks, micro_batch in ((1, 16), (2, 3)):
        training = make_training(
            root,
            folder=str(root / str(num_ranks)),
            config=WITHOUT_DROPOUT,
            micro_batch=micro_batch,
            num_epochs=2.0,
        )
        run_processes(train_in, training, num_ranks=num_ranks)
    one, two = read_losses(root / "1"), read_losses(root / "2")
    assert sorted(one) == sorted(two) == list(range(1, 21))
    assert max(abs(one[step] - two[step]) for step in one) < 1e-5
    assert len(set(one.values())) == 20  # it learned on the way
    assert one[20] < one[1]


@pytest.mark.slow
@pytest.mark.horovod
@GRID
def test_a_killed_rank_changes_nothing_in_the_end(root, strategy, backend):
    changes = {"strategy": strategy, "collectives": backend}
    killed, whole = (make_training(root, folder=str(root / name), **changes) for name in ("killed", "whole"))
    marker = str(root / "was killed")
    with pytest.raises(RankDiedError, match="rank 1: rank died with exit code -9"):
        run_processes(die_after_checkpoint, killed, marker, num_ranks=2, backend=backend)
    results = [
        run_processes(die_after_checkpoint, killed, marker, num_ranks=2, backend=backend)[0],
        run_processes(train_in, whole, num_ranks=2, backend=backend)[0],
    ]
    notes = [event["text"] for event in read_events(root / "killed") if event["kind"] == "note"]
    assert any("continues from the checkpoint of step" in text for text in notes)
    records = [
        {
            (event["kind"], event.get("split"), event["step"])
            for event in read_events(root / name)
            if event["kind"] != "note"
        }
        for name in ("killed", "whole")
    ]
    assert records[0] == records[1]  # no step and no evaluation is missing from the record
    assert results[0]["weights"] == results[1]["weights"]
    assert results[0]["after"] == results[1]["after"]


@pytest.mark.slow
@pytest.mark.horovod
@GRID
def test_three_ranks_give_the_same_weights_every_time(root, strategy, backend):
    # Two ranks cannot show a changing order of additions: a + b is b + a.
    weights = [
        run_processes(
            train_in,
            make_training(
                root,
                folder=str(root / name),
                strategy=strategy,
                collectives=backend,
                global_batch=15,
                num_epochs=1.0,
            ),
            num_ranks=3,
            backend=backend,
        )[0]["weights"]
        for name in ("first", "second")
    ]
    assert weights[0] == weights[1]


def test_training_learns_and_records_what_it_did(root):
    result = train_rank(make_training(root, num_epochs=6.0), alone())
    # Four classes: guessing gives about a quarter.
    assert result["before"]["accuracy"] < 0.5 < 0.7 < result["after"]["accuracy"]
    assert np.asarray(result["confusion"]).sum() == result["num_final_rows"] == 40
    assert result["best_step"] in (10, 20, 30, 40, 50, result["total_steps"])
    assert result == read_result(str(root / "run"))
    assert read_sample(str(root / "run")) is None


def test_a_finished_training_is_not_run_again(root):
    training = make_training(root, num_epochs=0.1)
    first = train_rank(training, alone())
    (root / "run" / "model" / "config.json").unlink()
    assert train_rank(training, alone()) == first
    assert not (root / "run" / "model" / "config.json").exists()


def test_a_language_model_writes_a_sample(text_root):
    from pipelines.finetune.models.architecture import Architecture

    training = make_training(
        text_root, task="language_modelling", architecture=Architecture(config=DECODER), num_epochs=0.5
    )
    result = train_rank(training, alone())
    assert result["after"]["bits_per_byte"] < result["before"]["bits_per_byte"]
    assert "w" in read_sample(str(text_root / "run"))


def test_the_best_checkpoint_is_exported_not_the_last(root):
    # A rate that grows through the whole training ends far beyond what the model bears.
    training = make_training(
        root, learning_rate=0.3, warmup_fraction=1.0, num_epochs=1.0, evaluate_every_steps=2
    )
    result = train_rank(training, alone())
    evaluations = [event for event in read_events(root / "run") if event["kind"] == "evaluation"]
    values = [event["accuracy"] for event in evaluations if event["split"] == "validation"]
    assert result["best_step"] < result["total_steps"]
    assert result["best_value"] == max(values) > values[-1]


def test_micro_batches_do_not_change_the_losses(root):
    for name, micro_batch in (("whole", 16), ("parts", 5)):
        training = make_training(
            root, folder=str(root / name), config=WITHOUT_DROPOUT, num_epochs=0.6, micro_batch=micro_batch
        )
        train_rank(training, alone())
    whole, parts = read_losses(root / "whole"), read_losses(root / "parts")
    assert len(whole) > 5
    assert max(abs(whole[step] - parts[step]) for step in whole) < 1e-5


def train_apart(world, root):
    return train_rank(make_training(Path(root), folder=f"{root}/{world.rank}"), world)


@pytest.mark.slow
@pytest.mark.horovod
def test_ranks_must_share_the_run_folder(root):
    with pytest.raises(
        RankDiedError, match=r"rank 1 does not see what rank 0 writes in .*/1; put the root on storage"
    ):
        run_processes(train_apart, str(root), num_ranks=2)


def test_a_split_with_too_few_rows_is_named(root, monkeypatch):
    from tests.finetune import data

    monkeypatch.setattr(data, "NUM_ROWS", {"train": 0})
    data.write_sequences(root / "empty")
    monkeypatch.setenv("DISTRIBUTARY_CACHE", str(root / "empty"))
    with pytest.raises(ValueError, match=r"split train of /no/table has 0 sequences, fewer than the 1 ranks"):
        train_rank(make_training(root), alone())


def test_a_diverged_training_stops_with_the_remedy(root):
    training = make_training(root, learning_rate=1e30, max_gradient_norm=1e30)
    with pytest.raises(
        FloatingPointError, match=r"loss is .* and gradient norm .* at step .*; lower finetune"
    ):
        train_rank(training, alone())


def test_several_ranks_refuse_the_single_strategy(root):
    from pipelines.finetune.launch.world import assign_ranks
    from pipelines.finetune.parallel.table import STRATEGIES

    world = assign_ranks(["a", "a"], [None, None])[0]
    with pytest.raises(
        ValueError, match=r"strategy is single, but there are 2 ranks; set finetune.num_ranks=1"
    ):
        STRATEGIES["single"](world, make_training(root).execution, None)


def test_the_identity_does_not_depend_on_the_execution(root):
    base = make_training(root).identity()
    same = {"strategy": "sharded_optimizer", "collectives": "torch", "micro_batch": 1, "num_threads": 4}
    assert make_training(root, **same, log_every_steps=9, checkpoint_every_steps=9).identity() == base
    for change in ({"seed": 1}, {"global_batch": 8}, {"learning_rate": 1.0}, {"evaluate_every_steps": 3}):
        assert make_training(root, **change).identity() != base


def test_a_global_batch_that_ranks_cannot_share_is_refused():
    with pytest.raises(
        ValueError, match=r"global_batch must be a multiple of num_ranks \(3\), got 16; try 15"
    ):
        BatchPlan(global_batch=16, micro_batch=4, num_replicas=3)


@pytest.mark.parametrize(("micro", "expected"), [(8, [8]), (5, [4, 4]), (3, [3, 3, 2]), (1, [1] * 8)])
def test_micro_batches_are_the_rows_of_the_rank(micro, expected):
    plan = BatchPlan(global_batch=16, micro_batch=micro, num_replicas=2)
    parts = [list(plan.micro_batches(np.arange(16), rank)) for rank in (0, 1)]
    assert [len(part) for part in parts[0]] == expected == [len(part) for part in parts[1]]
    assert len(parts[0]) == plan.num_micro_batches
    assert sorted(np.concatenate([*parts[0], *parts[1]])) == list(range(16))
