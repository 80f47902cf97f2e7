"""Spikes of the loss: the rule beside a plain one, and the planted document that made one."""

import json
import statistics

import numpy as np
import pytest

from jobs.shell.trace import display_spikes, format_json
from pipelines.finetune.losses.parts import forget_parts, open_losses
from pipelines.finetune.losses.read import read_losses
from pipelines.finetune.losses.spikes import MEDIAN_POINTS, MIN_POINTS, NOISE_POINTS, find_spikes
from pipelines.finetune.losses.table import commit_losses
from pipelines.finetune.models.architecture import Architecture
from pipelines.finetune.worker import train_rank
from pipelines.pin import Pin
from pipelines.registry.lookup import Lookup
from pipelines.registry.runs.spikes import MAX_SEQUENCES, trace_spikes
from pipelines.registry.runs.trace import RunTrace
from pipelines.registry.runs.tracker import open_run
from tests.finetune.data import make_training
from tests.finetune.ranks import alone
from tests.registry.test_trace import DECODER, PINNED
from tests.sequence_tables import VOCABULARY, make_rows, write_sequences_table

BAD_ROW = 40


def write_counting_rows(path):
    """Rows that count to four, again and again, but one of train that is noise: that row, and the pin."""
    splits = {
        split: make_rows(split, number, num_groups=5)
        for split, number in (("train", 300), ("validation", 20), ("test", 20))
    }
    random = np.random.default_rng(7)
    for rows in splits.values():
        for row in rows:
            row["input_ids"] = [place % 4 for place in range(row["num_tokens"])]
    bad = splits["train"][BAD_ROW]
    bad["input_ids"] = random.integers(0, VOCABULARY, bad["num_tokens"]).tolist()
    return bad, write_sequences_table(path, splits)


@pytest.fixture
def planted(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTRIBUTARY_CACHE", str(tmp_path / "cache"))
    return write_counting_rows(str(tmp_path / "sequences"))


@pytest.fixture
def train(planted, tmp_path, connected, experiment):
    """Train on these rows; the trace of the run and the losses that it logged."""

    def train(**changes):
        pinned = {"sequences": planted[1].path} | {
            name: getattr(planted[1], name) for name in ("table_id", "version")
        }
        settings = {"num_epochs": 4.0, "global_batch": 8, "micro_batch": 4, "window_batches": 4}
        settings |= {"task": "language_modelling", "architecture": Architecture(config=DECODER)}
        settings |= {"learning_rate": 0.02, "evaluate_every_steps": 20, "sequence_losses": True}
        training = make_training(tmp_path, **pinned, **{**settings, **changes})
        documents = Pin(table="documents", path="/no/documents", table_id="t", version=4, **PINNED)
        with open_run(
            experiment,
            training.fingerprint,
            folder=training.folder,
            params={**training.settings(), "num_ranks": 1},
            config="",
            inputs=[planted[1], documents],
        ) as run:
            train_rank(training, alone())
        data = Lookup(f"sqlite:///{connected}/mlflow.db").read_run_data(run.run_id)
        return RunTrace(data, 1)

    return train


def find_plainly(losses, deviations):
    found, isnan = [], np.isnan
    for at, loss in enumerate(losses):
        before = [each for each in losses[max(0, at - MEDIAN_POINTS) : at] if not isnan(each)]
        pairs = [losses[place - 1 : place + 1] for place in range(max(1, at - NOISE_POINTS), at)]
        changes = [new - old for old, new in pairs if not isnan(new - old)]
        if len(changes) < MIN_POINTS:
            found += [at] if isnan(loss) else []
            continue
        centre, median = statistics.median(changes), statistics.median(before)
        noise = 1.4826 * statistics.median(abs(each - centre) for each in changes) / 2**0.5
        if isnan(loss) or loss > median + deviations * max(noise, 1e-3 * median, 1e-6):
            found.append(at)
    return found


@pytest.mark.parametrize("deviations", [2.0, 6.0])
def test_spikes_are_those_of_a_plain_look_through_the_steps(deviations, monkeypatch):
    from pipelines.finetune.losses import spikes

    monkeypatch.setattr(spikes, "CHUNK", 37)
    random = np.random.default_rng(0)
    losses = 3 * np.exp(-np.arange(300) / 60) + 1 + random.normal(0, 0.05, 300)
    losses[[5, 120, 121, 250]] += [9.0, 0.7, 1.5, 0.9]
    losses[[0, 7, 200]] = np.nan
    found = find_spikes(np.arange(300) + 1, losses, deviations=deviations)
    assert sorted(spike.step - 1 for spike in found) == find_plainly(losses.tolist(), deviations)
    assert [spike.step for spike in found[:3]] == [1, 8, 201]  # what is no number stands first, and always
    assert all(spike.loss != spike.loss and spike.excess == np.inf for spike in found[:3])
    assert [spike.median != spike.median for spike in found[:3]] == [True, True, False]
    assert {121, 122, 251} <= {spike.step for spike in found}
    assert 6 not in {spike.step for spike in found}  # too few steps before
    heights = [spike.excess for spike in found]
    assert heights == sorted(heights, reverse=True)
    assert all(spike.loss > spike.threshold for spike in found[3:])


def test_a_loss_that_stands_still_or_falls_has_no_spikes():
    steps = np.arange(100) + 1
    assert find_spikes(steps, np.full(100, 2.0) + 1e-9 * (steps % 3), deviations=3.0) == []
    assert find_spikes(steps, np.zeros(100) + 1e-9 * (steps % 3), deviations=3.0) == []
    assert find_spikes(steps, 5.0 / steps, deviations=0.1) == []
    assert find_spikes(steps[:0], np.empty(0), deviations=3.0) == []


def test_a_jump_from_zero_without_noise_has_a_height():
    (spike,) = find_spikes(np.arange(40) + 1, np.eye(40)[30] / 2, deviations=6.0)
    assert (spike.step, spike.loss, spike.median) == (31, 0.5, 0.0)
    assert spike.excess == pytest.approx(0.5 / 1e-6)
    assert spike.threshold == pytest.approx(6e-6)


def test_steps_that_were_recorded_are_named(train, capsys):
    trace = train(num_epochs=1.0, checkpoint_every_steps=4)
    forget_parts(open_losses(trace.run.folder), after=8)
    losses = read_losses(trace.run.folder)
    answer = trace_spikes(trace, losses, {}, deviations=6.0)
    assert (answer["first_step"], answer["last_step"]) == (1, 8)
    display_spikes(answer)
    assert f"Steps 1 to 8 of {trace.total_steps} were recorded" in capsys.readouterr().out
    with pytest.raises(LookupError, match="step 9 were not recorded; those of steps 1 to 8 were"):
        losses.read_step(9)


@pytest.mark.parametrize("is_committed", [False, True])
def test_a_bad_document_is_the_first_of_the_highest_spike(train, planted, is_committed, capsys):
    run, bad = train().run, planted[0]
    trace = RunTrace(run, None)  # ranks and all are those of the losses
    if is_committed:
        assert commit_losses(trace.run.folder, trace.run.run_id) is not None
        open_losses(trace.run.folder).delete("_parts")
    answer = trace_spikes(trace, read_losses(trace.run.folder), {}, deviations=6.0)
    assert (answer["has_sequence_losses"], answer["num_points"]) == (True, trace.total_steps)
    assert answer["num_spikes"] >= 1
    for spike in answer["spikes"]:
        first = spike["sequences"][0]
        assert first["sequence_id"] == bad["sequence_id"]
        assert first["segments"] == bad["segments"]
        assert first["excess_fraction"] > 0.5
        assert len(spike["sequences"]) == MAX_SEQUENCES
        excess = [row["excess"] for row in spike["sequences"]]
        assert excess == sorted(excess, reverse=True)
        expected = [row["loss_sum"] - row["num_targets"] * spike["median"] for row in spike["sequences"]]
        assert excess == pytest.approx(expected, rel=1e-12)
        assert spike["loss"] > spike["threshold"] > spike["median"]
        assert {row["rank"] for row in spike["sequences"]} == {0}
        whole = RunTrace(run, 1).trace_step(spike["step"])["sequences"]
        assert {key: first[key] for key in whole[0]} in whole
    display_spikes(answer)
    shown = capsys.readouterr().out
    assert f"step {answer['spikes'][0]['step']}: loss " in shown
    assert bad["segments"][0]["doc_id"] in shown.replace("\n", "")


def test_without_losses_the_step_is_listed_and_the_remedy_named(train, capsys):
    trace = train(sequence_losses=False, num_epochs=1.0)
    assert read_losses(trace.run.folder) is None
    logged = {step: 2.0 + 0.01 * (step % 3) for step in range(1, trace.total_steps + 1)}
    logged[12] = 9.0
    answer = trace_spikes(trace, None, logged, deviations=6.0)
    (spike,) = answer["spikes"]
    assert (spike["step"], spike["loss"], answer["has_sequence_losses"]) == (12, 9.0, False)
    assert spike["sequences"] == trace.trace_step(12)["sequences"]
    display_spikes(answer)
    assert "finetune.sequence_losses=true" in capsys.readouterr().out
    unknown = trace_spikes(RunTrace(trace.run, None), None, logged, deviations=6.0)
    assert {row["rank"] for row in unknown["spikes"][0]["sequences"]} == {None}
    display_spikes(unknown)
    assert "with --num-ranks" in capsys.readouterr().out.replace("\n", " ")
    with pytest.raises(ValueError, match="deviations must be above 0, got 0"):
        trace_spikes(trace, None, logged, deviations=0.0)


def test_a_loss_that_is_no_number_is_null_in_json(train, capsys):
    trace = train()
    losses = read_losses(trace.run.folder)
    steps, values = losses.read_steps()

    class Broken:
        """The losses with a step, and one sequence of it, that are no numbers."""

        def read_steps(self):
            return steps, np.where(np.isin(steps, [3, 30]), np.nan, values)

        def read_step(self, step):
            rows = losses.read_step(step)
            bad = (np.arange(8) == 3) & (step in (3, 30))
            return rows._replace(losses=np.where(bad, np.nan, rows.losses))

    answer = trace_spikes(trace, Broken(), {}, deviations=6.0)
    spikes = json.loads(format_json(answer))["spikes"][:2]
    assert [(spike["step"], spike["loss"], spike["excess"]) for spike in spikes] == [
        (3, None, None),  # too early for a median
        (30, None, None),
    ]
    for spike in spikes:
        assert spike["sequences"][0]["sequence_id"] == int(losses.read_step(spike["step"]).sequence_ids[3])
        assert [row["loss_sum"] is None for row in spike["sequences"]] == [True] + [False] * 4
    sums = [row["loss_sum"] for row in spikes[0]["sequences"][1:]]
    assert sums == sorted(sums, reverse=True)
    assert [spikes[0][name] for name in ("median", "deviation", "threshold")] == [None] * 3
    assert {row["excess"] for row in spikes[0]["sequences"]} == {None}
    display_spikes(answer)
    shown = capsys.readouterr().out
    assert "step 3: loss no finite number, too few losses before" in shown
    assert "step 30: loss no finite number, median" in shown
