"""What `trace` says of a run, beside what the training really saw."""

import json
from collections import Counter
from dataclasses import asdict, replace
from itertools import chain

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from jobs.shell.trace import choose_num_ranks, display_answer, find_num_ranks
from pipelines.dataset.mixing.count import plan_on_table
from pipelines.dataset.mixing.rules import Curriculum, Mixture
from pipelines.dataset.mixing.stored import write_mixture
from pipelines.dataset.reader import SequenceReader
from pipelines.finetune.models.architecture import Architecture
from pipelines.finetune.worker import train_rank
from pipelines.pin import Pin
from pipelines.registry.lookup import Lookup
from pipelines.registry.runs.trace import RunTrace
from pipelines.registry.runs.tracker import Tracker, open_run
from tests.finetune.data import make_training
from tests.finetune.ranks import alone, run_processes
from tests.sequence_tables import make_rows, name_document, write_sequences_table

NUM_GROUPS, NUM_DOCUMENTS = 5, 100
DECODER = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
DECODER |= {"bos_token_id": 0, "eos_token_id": 0}
PINNED = {"digest": "d" * 32, "num_rows": 1, "fingerprint": "f", "facts": {}}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A sequences table with three splits: its rows and its pin."""
    splits = {
        split: make_rows(split, number, num_groups=NUM_GROUPS)
        for split, number in (("train", NUM_DOCUMENTS), ("validation", 20), ("test", 20))
    }
    path = str(tmp_path_factory.mktemp("trace") / "sequences")
    return splits, write_sequences_table(path, splits)


@pytest.fixture
def training(written, tmp_path, monkeypatch):
    """2.5 epochs in batches of 6, which end inside windows: epochs share windows, and batches."""
    monkeypatch.setenv("DISTRIBUTARY_CACHE", str(tmp_path / "cache"))
    pinned = {name: getattr(written[1], name) for name in ("table_id", "version")}
    changes = {"num_epochs": 2.5, "global_batch": 6, "micro_batch": 2, "window_batches": 4}
    changes |= {"task": "language_modelling", "architecture": Architecture(config=DECODER)}
    return make_training(tmp_path, sequences=written[1].path, **pinned, **changes)


@pytest.fixture
def record(written, training, experiment):
    """The run of the training with this number of ranks, as the store has it."""

    def start(num_ranks=1, training=training, mixtures=()):
        documents = Pin(table="documents", path="/no/documents", table_id="t", version=4, **PINNED)
        with open_run(
            experiment,
            training.fingerprint,
            folder=training.folder,
            params={**training.settings(), "num_ranks": num_ranks},
            config="",
            inputs=[written[1], documents, *mixtures],
        ) as tracker:
            return tracker.run_id

    return start


@pytest.fixture
def trace(record, connected):
    def trace(num_ranks=1, **mixed):
        run = Lookup(f"sqlite:///{connected}/mlflow.db").read_run_data(record(num_ranks, **mixed))
        return RunTrace(run, choose_num_ranks(run, None))

    return trace


def train_and_record(world, training):
    """Train; write the rows that this rank asked the reader for, one line per micro-batch, in order."""
    real = SequenceReader.rows
    readers = {}

    def spy(self, ids):
        readers.setdefault(id(self), []).append(ids.tolist())
        return real(self, ids)

    SequenceReader.rows = spy
    try:
        train_rank(training, world)
    finally:
        SequenceReader.rows = real
    num_rows = training.schedule.global_batch // world.world_size
    num_micro = -(-num_rows // training.execution.micro_batch)
    # The first reader that trains is the one whose calls fill all steps; the others only evaluate.
    with open(f"{training.folder}-{world.rank}.json", "w", encoding="ascii") as stream:
        json.dump([list(readers.values()), num_micro], stream)


def read_steps(training, rank, total_steps):
    """The rows of each step on a rank."""
    with open(f"{training.folder}-{rank}.json", encoding="ascii") as stream:
        readers, num_micro = json.load(stream)
    (calls,) = [calls for calls in readers if len(calls) == total_steps * num_micro]
    return [list(chain(*calls[at : at + num_micro])) for at in range(0, len(calls), num_micro)]


def list_rows(answer):
    return [row["row"] for row in answer["sequences"]]


def require_agreement(trace, training, written, num_ranks):
    documents = [row["segments"] for row in written[0]["train"]]
    ids = [row["sequence_id"] for row in written[0]["train"]]
    for rank in range(num_ranks):
        for number, rows in enumerate(read_steps(training, rank, trace.total_steps)):
            answer = trace.trace_step(number + 1, rank)
            assert list_rows(answer) == rows
            assert [row["sequence_id"] for row in answer["sequences"]] == [ids[row] for row in rows]
            assert [row["segments"] for row in answer["sequences"]] == [documents[row] for row in rows]
            assert {row["rank"] for row in answer["sequences"]} == {rank}


def test_steps_are_what_the_training_saw(trace, training, written):
    train_and_record(alone(), training)
    require_agreement(trace(), training, written, 1)


@pytest.mark.slow
def test_ranks_are_what_each_of_them_saw(trace, training, written):
    training = replace(training, execution=replace(training.execution, collectives="torch"))
    run_processes(train_and_record, training, num_ranks=2, backend="torch")
    require_agreement(trace(2), training, written, 2)


def test_the_steps_of_an_epoch_are_all_rows(trace, written):
    found, num_rows = trace(3), len(written[0]["train"])
    assert found.total_steps == -(-num_rows * 5 // 2 // 6)
    steps = range(1, found.total_steps + 1)
    seen = Counter(row for step in steps for row in list_rows(found.trace_step(step)))
    assert set(seen) == set(range(num_rows))
    assert set(seen.values()) <= {2, 3}
    for step in (1, found.total_steps):
        ranks = [list_rows(found.trace_step(step, rank)) for rank in range(3)]
        assert sorted(chain(*ranks)) == sorted(list_rows(found.trace_step(step)))


def test_visits_of_a_document_are_the_steps_that_list_it(trace):
    assert require_same_visits(trace(2)) >= 2


def require_same_visits(found):
    """Visits of every ninth document, beside a look through all steps; the fewest visits."""
    fewest = 99
    answers = [found.trace_step(step) for step in range(1, found.total_steps + 1)]
    for document in [name_document("train", number) for number in range(0, NUM_DOCUMENTS, 9)]:
        expected = [
            (answer["step"], row["rank"], row["row"], row["sequence_id"])
            for answer in answers
            for row in answer["sequences"]
            if document in {segment["doc_id"] for segment in row["segments"]}
        ]
        answer = found.trace_document(document)
        assert answer["split"] == "train"
        assert sorted(
            (visit["step"], visit["rank"], row["row"], row["sequence_id"])
            for row in answer["sequences"]
            for visit in row["seen"]
        ) == sorted(expected)
        fewest = min(fewest, len(expected))
    return fewest


def test_a_mixture_and_a_curriculum_are_traced_as_they_were_trained(
    spark, trace, training, written, tmp_path, monkeypatch
):
    mixture = Mixture(shares={"source 0": 0.7}, max_sequences={"source 1": 9})
    given = {"num_epochs": training.schedule.num_epochs, "global_batch": training.schedule.global_batch}
    plan = plan_on_table(mixture, written[1], written[1].path, **given)
    curriculum = Curriculum(column="num_bytes", steps_fraction=0.6)
    mixed = replace(training, mixture=plan, curriculum=curriculum)
    train_and_record(alone(), mixed)
    pinned = write_mixture(spark, str(tmp_path / "mixtures"), plan, mixture, written[1])
    found = trace(training=mixed, mixtures=[pinned])
    require_agreement(found, mixed, written, 1)
    # Without the copy that the training made, columns are read from the table.
    monkeypatch.setenv("DISTRIBUTARY_CACHE", str(tmp_path / "another"))
    alone_found = RunTrace(found.run, 1)
    require_agreement(alone_found, mixed, written, 1)
    require_same_visits(alone_found)


def test_a_held_out_document_was_seen_by_no_step(trace, capsys):
    answer = trace().trace_document(name_document("test", 3))
    assert answer["split"] == "test"
    assert [row["seen"] for row in answer["sequences"]] == [[]]
    display_answer(answer)
    assert "No step saw it: test is held out." in capsys.readouterr().out


def test_what_came_after_the_best_step_is_marked(trace, training):
    from pipelines.storage import Folder

    Folder(training.folder).write("result.json", json.dumps({"best_step": 4}).encode())
    found = trace()
    assert [found.trace_step(step)["in_model"] for step in (4, 5)] == [True, False]


def test_steps_after_an_early_stop_were_not_done(trace, training):
    from pipelines.storage import Folder

    whole = trace()
    document = name_document("train", 3)
    steps = [seen["step"] for row in whole.trace_document(document)["sequences"] for seen in row["seen"]]
    assert len(steps) > 1
    stop = {"best_step": min(steps), "total_steps": max(steps) - 1}
    Folder(training.folder).write("result.json", json.dumps(stop).encode())
    found = trace()
    seen = [seen["step"] for row in found.trace_document(document)["sequences"] for seen in row["seen"]]
    assert sorted(seen) == sorted(steps)[:-1]
    with pytest.raises(ValueError, match=f"step must be from 1 to {max(steps) - 1}, "):
        found.trace_step(max(steps))


def test_faults_of_a_question_are_named(trace, record, connected, experiment):
    found = trace(2)
    with pytest.raises(ValueError, match=rf"step must be from 1 to {found.total_steps}, .* got 0"):
        found.trace_step(0)
    with pytest.raises(ValueError, match=r"rank must be from 0 to 1, because the run has 2 ranks, got 2"):
        found.trace_step(1, 2)
    with pytest.raises(ValueError, match="32 hex digits, as in the table documents; got 'D1'"):
        found.trace_document("D1")
    lookup = Lookup(f"sqlite:///{connected}/mlflow.db")
    with pytest.raises(LookupError, match="MLflow has no run '0123'; take the id of a run"):
        lookup.read_run_data("0123")
    other = Tracker(experiment, "other")
    with pytest.raises(ValueError, match=r"does not record num_epochs, .*it is no training of Distributary"):
        lookup.read_run_data(other.run_id)


def test_a_document_in_no_sequence_is_explained(trace, tmp_path):
    names = [name_document("none", number) for number in range(3)]
    documents = str(tmp_path / "documents")
    rows = {"doc_id": names, "drop_reason": [None, None, "too_short"], "split": ["train"] * 3}
    write_deltalake(documents, pa.table(rows, schema=pa.schema([(name, pa.string()) for name in rows])))
    left_out = {"documents": 2, "first": [{"doc_id": names[0], "reason": "it has no turn of the assistant"}]}
    splits = {"train": make_rows("train", 9, num_groups=1)}
    sequences = write_sequences_table(str(tmp_path / "sequences"), splits, facts={"left_out": left_out})
    pinned = {"path": documents, "table_id": str(DeltaTable(documents).metadata().id), "version": 0}
    found = trace()
    place = {name: getattr(sequences, name) for name in ("path", "table_id", "version")}
    found = replace(found, run=found.run._replace(documents=pinned, sequences=place))
    for name, reason in zip(
        names,
        (
            r"no sequence: its task found nothing to learn in it \(it has no turn of the assistant\)$",
            r"no sequence: its task found nothing to learn in it$",
            "was dropped by too_short",
        ),
        strict=True,
    ):
        with pytest.raises(LookupError, match=rf"document {name} .*{reason}"):
            found.trace_document(name)


def test_ranks_that_changed_must_be_chosen(trace):
    run = trace(2).run._replace(other_num_ranks="4")
    with pytest.raises(ValueError, match=r"began with 2 ranks and was continued with 4; .* with --num-ranks"):
        choose_num_ranks(run, None)
    assert choose_num_ranks(run, 4) == find_num_ranks(run, 4) == 4
    assert find_num_ranks(run, None) is None


def test_the_pin_of_the_run_is_used(trace, written):
    answer = trace().trace_step(1)
    assert answer["table"] == {name: asdict(written[1])[name] for name in ("path", "table_id", "version")}
