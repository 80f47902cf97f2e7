"""Training on the sequences of the small flow: equal at any number of ranks, and after any interruption."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from jobs.training import training_of
from pipelines.finetune.launch.barrier import RankError, run_ranks
from pipelines.finetune.launch.world import assign
from pipelines.finetune.loop import BatchPlan
from pipelines.finetune.worker import result_of, train_rank
from tests.conftest import flow_overrides

CHECKOUT = Path(__file__).parent.parent.parent
ALONE = assign(["127.0.0.1"], [None])[0]


def training(flow, folder: Path, **changes):
    base = training_of(flow.configs["finetune"])[0]
    return replace(base, folder=str(folder), **changes)


def without_dropout(flow):
    architecture = flow.configs["finetune"].model
    return replace(
        architecture,
        config={**architecture.config, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    )


def losses(folder: Path) -> dict[int, float]:
    events = [
        json.loads(line)
        for file in sorted((folder / "events").iterdir())
        for line in file.read_text().splitlines()
    ]
    return {event["step"]: event["loss"] for event in events if event["kind"] == "step"}


@pytest.mark.horovod
def test_one_rank_and_two_ranks_give_the_same_losses_over_20_steps(spark, flow, tmp_path):
    trainings = {
        ranks: training(
            flow,
            tmp_path / str(ranks),
            architecture=without_dropout(flow),
            micro_batch=micro,
            num_epochs=20 * 16 / num_train(flow),
            log_every_steps=1,
        )
        for ranks, micro in ((1, 16), (2, 3))
    }
    for ranks, each in trainings.items():
        run_ranks(spark, partial(train_rank, each), num_ranks=ranks)
    one, two = losses(tmp_path / "1"), losses(tmp_path / "2")
    assert sorted(one) == sorted(two) == list(range(1, 21))
    assert max(abs(one[step] - two[step]) for step in one) < 1e-5
    assert len(set(one.values())) == 20  # something was learnt on the way
    assert one[20] < one[1]


@pytest.mark.horovod
def test_a_rank_killed_during_training_changes_nothing_in_the_end(spark, flow, tmp_path):
    interrupted = training(flow, tmp_path / "killed", num_epochs=1.0)

    def work(place):
        marker = tmp_path / "was killed"

        def die():
            while not (tmp_path / "killed" / "checkpoints" / "step-00000010" / "complete.json").exists():
                time.sleep(0.001)
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

        if place.rank == 1 and not marker.exists():
            threading.Thread(target=die, daemon=True).start()
        return train_rank(interrupted, place)

    killed = run_ranks(spark, work, num_ranks=2)[0]
    whole = run_ranks(
        spark, partial(train_rank, replace(interrupted, folder=str(tmp_path / "whole"))), num_ranks=2
    )[0]
    assert (tmp_path / "was killed").exists()
    notes = [event for event in events_of(tmp_path / "killed") if event["kind"] == "note"]
    assert any("continues from the checkpoint of step" in note["text"] for note in notes)
    told = {
        name: {
            (event["kind"], event.get("split"), event["step"])
            for event in events_of(tmp_path / name)
            if event["kind"] != "note"
        }
        for name in ("killed", "whole")
    }
    assert told["killed"] == told["whole"]  # no step and no evaluation is missing from the record
    assert killed["weights"] == whole["weights"]
    assert killed["after"] == whole["after"]


THREE_RANKS = """
import sys
from dataclasses import replace
from functools import partial
from jobs import finetune
from jobs.shell import settings as config
from jobs.training import training_of
from pipelines.finetune.launch.barrier import run_ranks
from pipelines.finetune.worker import train_rank
from pipelines.spark import session

settings = config.load(overrides=[*sys.argv[2:], "finetune.num_ranks=3", "finetune.global_batch=15", "finetune.num_epochs=0.5",
                                  "spark.master=local[3,4]"])
training = training_of(settings.section("finetune", finetune.Config))[0]
spark = session("three ranks", settings.tree["spark"])
for name in ("first", "second"):
    each = replace(training, folder=f"{sys.argv[1]}/{name}")
    print("weights", run_ranks(spark, partial(train_rank, each), num_ranks=3)[0]["weights"])
"""


@pytest.mark.horovod
def test_three_ranks_give_the_same_weights_every_time(flow, tmp_path):
    # The trap: of two ranks a + b is b + a, and the order in which Horovod adds cannot show.
    ended = subprocess.run(
        [sys.executable, "-c", THREE_RANKS, str(tmp_path), *flow_overrides(flow.folder)],
        cwd=CHECKOUT,
        text=True,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    first, second = [line.split()[1] for line in ended.stdout.splitlines() if line.startswith("weights")] or [
        ended.stdout,
        "",
    ]
    assert first == second


def test_training_learns_and_says_what_it_did(flow):
    result = result_of(training_of(flow.configs["finetune"])[0].folder)
    # Four intents: guessing gives about a quarter.
    assert result["before"]["accuracy"] < 0.5 < 0.7 < result["after"]["accuracy"]
    assert np.asarray(result["confusion"]).sum() == result["num_final_rows"]
    assert result["best_step"] in (30, 60, result["total_steps"])


def test_the_best_checkpoint_is_kept_not_the_last(flow, tmp_path):
    # A learning rate that grows ruinous: warm-up through the whole training ends far beyond what the model bears.
    optimization = replace(flow.configs["finetune"].optimization, learning_rate=0.3, warmup_fraction=1.0)
    result = train_rank(
        training(flow, tmp_path, optimization=optimization, num_epochs=1.0, evaluate_every_steps=2), ALONE
    )
    assert result["best_step"] < result["total_steps"]
    evaluations = [event for event in events_of(tmp_path) if event["kind"] == "evaluation"]
    values = [event["accuracy"] for event in evaluations if event["split"] == "validation"]
    assert result["best_value"] == max(values) > values[-1]


def test_accumulating_micro_batches_gives_the_same_losses(flow, tmp_path):
    for name, micro in (("whole", 16), ("parts", 5)):
        train_rank(
            training(
                flow, tmp_path / name, architecture=without_dropout(flow), num_epochs=0.2, micro_batch=micro
            ),
            ALONE,
        )
    whole, parts = losses(tmp_path / "whole"), losses(tmp_path / "parts")
    assert len(whole) > 5
    assert max(abs(whole[step] - parts[step]) for step in whole) < 1e-5


@pytest.mark.horovod
def test_ranks_that_do_not_share_the_run_folder_are_told_before_they_train(spark, flow, tmp_path):
    def work(place):
        return train_rank(training(flow, tmp_path / str(place.rank)), place)

    with pytest.raises(
        RankError, match=r"rank 1 does not see what rank 0 writes in .*/1; put the root on storage"
    ):
        run_ranks(spark, work, num_ranks=2)


def test_a_split_that_is_not_there_is_named(flow, tmp_path):
    with pytest.raises(ValueError, match=r"split nowhere of .* has 0 sequences, fewer than the 1 ranks"):
        train_rank(training(flow, tmp_path, evaluation_split="nowhere"), ALONE)


def test_a_diverged_training_stops_with_step_and_remedy(flow, tmp_path):
    optimization = replace(flow.configs["finetune"].optimization, learning_rate=1e30, max_gradient_norm=1e30)
    with pytest.raises(
        FloatingPointError, match=r"loss is .* and gradient norm .* at step .*; lower finetune"
    ):
        train_rank(training(flow, tmp_path, optimization=optimization, num_epochs=1.0), ALONE)


def test_a_global_batch_that_ranks_cannot_share_is_refused():
    with pytest.raises(
        ValueError, match=r"global_batch must be a multiple of num_ranks \(3\), got 16; try 15"
    ):
        BatchPlan(global_batch=16, micro_batch=4, world_size=3)


@pytest.mark.parametrize(("micro", "expected"), [(8, [8]), (5, [4, 4]), (3, [3, 3, 2]), (1, [1] * 8)])
def test_micro_batches_are_the_rows_of_the_rank(micro, expected):
    plan = BatchPlan(global_batch=16, micro_batch=micro, world_size=2)
    parts = [list(plan.micro_batches(np.arange(16), rank)) for rank in (0, 1)]
    assert [len(part) for part in parts[0]] == expected == [len(part) for part in parts[1]]
    assert sorted(np.concatenate([*parts[0], *parts[1]])) == list(range(16))


def events_of(folder: Path) -> list[dict]:
    return [
        json.loads(line)
        for file in sorted((folder / "events").iterdir())
        for line in file.read_text().splitlines()
    ]


def num_train(flow) -> int:
    return result_of(training_of(flow.configs["finetune"])[0].folder)["num_train_rows"]
