"""Trainings on a mixture: what was planned is what the steps read, at any interruption."""

import json
import random as python_random
from dataclasses import replace

import numpy as np
import pytest

from pipelines.dataset.arrays import FORMAT
from pipelines.dataset.mixing.build import Sources, build_order
from pipelines.dataset.mixing.mixed import Difficulty
from pipelines.dataset.mixing.plan import SourceCount, plan_mixture
from pipelines.dataset.mixing.rules import Curriculum, Mixture
from pipelines.dataset.order import Order
from pipelines.dataset.reader import SequenceReader, write_split
from pipelines.finetune import realised_mix
from pipelines.finetune.realised_mix import RealisedMix
from pipelines.finetune.worker import train_rank
from tests.finetune import data
from tests.finetune.ranks import alone, run_processes
from tests.finetune.test_train import read_events, read_losses

NAMES = ["code", "web"]
CURRICULUM = Curriculum(column="num_tokens", steps_fraction=0.5)


@pytest.fixture
def mixed_root(tmp_path, monkeypatch):
    """As `root`, with rows of two sources in the train split: 32 of code, 128 of web."""
    monkeypatch.setenv("DISTRIBUTARY_CACHE", str(tmp_path / "cache"))
    data.write_sequences(tmp_path / "cache")
    folder = tmp_path / "cache" / "sequences" / f"{data.TABLE_ID}-{data.VERSION}-train-{FORMAT}"
    sources = ["code"] * 32 + ["web"] * 128
    python_random.Random(0).shuffle(sources)
    write_split(folder, data.classification_rows(160, 0), sources)
    return tmp_path


def open_train(root):
    return SequenceReader(root / "cache" / "sequences" / f"{data.TABLE_ID}-{data.VERSION}-train-{FORMAT}")


def make_plan(root, mixture, *, num_epochs, global_batch=16):
    reader = open_train(root)
    counts = [
        SourceCount(
            source=name,
            num_sequences=int((reader.source_codes == code).sum()),
            num_tokens=int(reader.lengths[reader.source_codes == code].sum()),
        )
        for code, name in enumerate(NAMES)
    ]
    return plan_mixture(mixture, counts, num_epochs=num_epochs, global_batch=global_batch)


def read_mix(folder):
    return {event["step"]: event for event in read_events(folder) if event["kind"] == "mixture"}


def test_a_training_reads_what_was_planned_and_says_so(mixed_root, monkeypatch):
    monkeypatch.setattr(realised_mix, "STEPS", 8)
    plan = make_plan(mixed_root, Mixture(shares={"code": 0.5}), num_epochs=2.0)
    training = data.make_training(mixed_root, num_epochs=2.0, mixture=plan, curriculum=CURRICULUM)
    result = train_rank(training, alone())
    assert result["total_steps"] == 20
    mix = read_mix(mixed_root / "run")
    assert [(step, event["first_step"]) for step, event in mix.items()] == [(8, 0), (16, 8), (20, 16)]
    for name, planned in zip(NAMES, plan.sources, strict=True):
        assert sum(event["sequences"][name] for event in mix.values()) == planned.num_planned
    tokens = {name: sum(event["tokens"][name] for event in mix.values()) for name in NAMES}
    assert tokens["code"] / sum(tokens.values()) == pytest.approx(0.5, abs=0.03)
    assert plan.sources[0].repeats > 4  # a fifth of the rows gave half of the tokens


@pytest.mark.slow
def test_one_rank_and_three_read_the_same_and_give_the_same_losses(mixed_root):
    plan = make_plan(mixed_root, Mixture(shares={"code": 0.5}), num_epochs=1.5, global_batch=18)
    changes = {"mixture": plan, "curriculum": CURRICULUM, "global_batch": 18, "num_epochs": 1.5}
    changes |= {"config": data.WITHOUT_DROPOUT, "collectives": "torch"}
    one, three = (
        data.make_training(mixed_root, folder=str(mixed_root / name), **changes) for name in ("one", "three")
    )
    train_rank(one, alone())
    run_processes(train_on, three, num_ranks=3, backend="torch")
    assert read_mix(mixed_root / "one") == read_mix(mixed_root / "three")
    losses = [read_losses(mixed_root / name) for name in ("one", "three")]
    assert sorted(losses[0]) == sorted(losses[1]) == list(range(1, 15))
    assert max(abs(losses[0][step] - losses[1][step]) for step in losses[0]) < 1e-5


def train_on(world, training):
    return train_rank(training, world)


def test_an_interrupted_training_gives_the_same_weights_and_the_same_counts(mixed_root, monkeypatch):
    monkeypatch.setattr(realised_mix, "STEPS", 8)
    plan = make_plan(mixed_root, Mixture(shares={"code": 0.5}), num_epochs=2.0)
    changes = {"num_epochs": 2.0, "mixture": plan, "curriculum": CURRICULUM}
    whole, stopped = (
        data.make_training(mixed_root, folder=str(mixed_root / name), **changes)
        for name in ("whole", "stopped")
    )
    result = train_rank(whole, alone())

    real, calls = SequenceReader.rows, []

    def stop_at_step_13(self, ids):
        calls.append(ids)
        if len(calls) > 35:  # 5 and 5 of two evaluations, and 2 micro-batches of each step
            raise KeyboardInterrupt
        return real(self, ids)

    monkeypatch.setattr(SequenceReader, "rows", stop_at_step_13)
    with pytest.raises(KeyboardInterrupt):
        train_rank(stopped, alone())
    monkeypatch.setattr(SequenceReader, "rows", real)
    assert list(read_mix(mixed_root / "stopped")) == [8]
    assert train_rank(stopped, alone())["weights"] == result["weights"]
    both = [read_mix(mixed_root / name) for name in ("whole", "stopped")]
    assert both[0] == both[1]
    assert len(both[0]) == 3


@pytest.mark.parametrize("first_step", [0, 5, 8, 13, 19])
def test_counts_of_a_thousand_steps_do_not_depend_on_where_a_launch_began(
    mixed_root, monkeypatch, first_step
):
    monkeypatch.setattr(realised_mix, "STEPS", 8)
    reader = open_train(mixed_root)
    plan = make_plan(mixed_root, Mixture(temperature=3.0), num_epochs=2.0)
    sources = Sources(plan, reader.source_names, reader.source_codes)
    schedule = data.make_training(mixed_root, num_epochs=2.0).schedule
    order = build_order(reader.lengths, schedule, sources=sources)
    rows = [order.batch(step) for step in range(20)]
    mix = RealisedMix(sources, reader.lengths, order, first_step=first_step)
    counted = [counts for step in range(first_step, 20) for counts in mix.count(step + 1, rows[step])]
    expected = [
        {
            "first_step": first,
            "sequences": {
                name: sum(
                    int((reader.source_codes[batch] == code).sum()) for batch in rows[first : first + 8]
                )
                for code, name in enumerate(NAMES)
            },
            "tokens": {
                name: sum(
                    int(reader.lengths[batch][reader.source_codes[batch] == code].sum())
                    for batch in rows[first : first + 8]
                )
                for code, name in enumerate(NAMES)
            },
        }
        for first in (0, 8, 16)
        if first + 8 > first_step
    ]
    assert counted == expected


def test_without_a_mixture_the_order_is_that_of_earlier_versions():
    lengths = np.arange(10) % 4
    schedule = replace(_schedule(), num_epochs=2.0, global_batch=4, window_batches=2, seed=7)
    order = build_order(lengths, schedule)
    assert order.total_steps == 5
    # The numbers of test_order, which were written down before there were mixtures.
    assert [order.batch(step).tolist() for step in range(5)] == [
        [5, 6, 3, 7],
        [0, 8, 9, 1],
        [2, 6, 2, 7],
        [4, 0, 1, 5],
        [8, 4, 9, 3],
    ]


def _schedule():
    from pipelines.finetune.training import Schedule

    return Schedule(num_epochs=2.0, global_batch=8, window_batches=2, seed=7)


def test_a_curriculum_needs_no_mixture():
    lengths = np.random.default_rng(0).permutation(400) + 1
    order = build_order(lengths, _schedule(), difficulty=Difficulty(CURRICULUM, lengths))
    plain = Order(lengths, global_batch=8, total_steps=100, window_batches=2, seed=7)
    assert order.total_steps == 100
    seen = np.array([order.batch(step) for step in range(100)])
    assert np.bincount(seen.ravel()).tolist() == [2] * 400
    # Half of the steps are one pass: easy rows first. The rest is random.
    assert lengths[seen[:8]].mean() < 60
    assert lengths[seen[42:50]].mean() > 340
    assert 150 < lengths[seen[50:58]].mean() < 250
    assert 150 < lengths[[plain.batch(step) for step in range(8)]].mean() < 250


def test_identity_changes_with_plan_and_curriculum_only_where_there_is_one(mixed_root):
    training = data.make_training(mixed_root)
    assert not {"mixture", "curriculum"} & training.identity().keys()  # earlier trainings keep their name
    plan = make_plan(mixed_root, Mixture(shares={"code": 0.5}), num_epochs=2.0)
    other = make_plan(mixed_root, Mixture(shares={"code": 0.4}), num_epochs=2.0)
    kinds = [
        replace(training, mixture=plan).identity(),
        replace(training, mixture=other).identity(),
        replace(training, curriculum=CURRICULUM).identity(),
        training.identity(),
    ]
    assert len({json.dumps(kind, sort_keys=True) for kind in kinds}) == 4
    assert replace(training, mixture=replace(plan, id="x")).identity() == kinds[0]
    assert replace(training, mixture=replace(plan, id="x")).settings()["mixture_id"] == "x"
