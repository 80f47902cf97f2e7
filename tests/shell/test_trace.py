"""`distributary trace` on the small flow, as a person types it."""

import json

import click
import pytest
from typer.testing import CliRunner

from jobs.shell import trace
from jobs.shell.cli import build_program
from jobs.shell.display import console
from jobs.shell.trace import display_step, find_run, format_json
from pipelines.pin import pin
from pipelines.registry.lookup import Lookup
from pipelines.registry.runs.current import read_current
from pipelines.tables import DOCUMENTS, SEQUENCES
from tests.conftest import flow_overrides


@pytest.fixture
def ask(flow):
    def ask(*words):
        return CliRunner().invoke(build_program(), ["trace", *words, *flow_overrides(flow.folder)])

    return ask


def read_answer(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_step_lists_documents_with_their_texts(ask, flow, spark):
    answer = read_answer(ask("--step", "1", "--text", "--json"))
    assert (answer["step"], answer["num_ranks"], len(answer["sequences"])) == (1, 2, 16)
    documents = {
        row["doc_id"]: row for row in DOCUMENTS.read(spark, flow.configs["corpus"].documents).collect()
    }
    for row in answer["sequences"]:
        for segment in row["segments"]:
            document = documents[segment["doc_id"]]
            assert document["split"] == "train"
            assert segment["text"] == document["text"][segment["char_start"] : segment["char_end"]] != ""
            assert isinstance(segment["first_token"], int)
    of_rank = read_answer(ask("--step", "1", "--rank", "1", "--json"))
    assert len(of_rank["sequences"]) == 8
    shown = ask("--step", "1", "--rank", "1")
    assert shown.exit_code == 0
    assert of_rank["sequences"][0]["segments"][0]["doc_id"] in shown.stdout


def test_a_document_lists_the_steps_that_saw_it(ask, flow, spark):
    rows = (
        SEQUENCES.read(spark, flow.configs["dataset"].sequences).where("split = 'train'").limit(3).collect()
    )
    for row in rows:
        doc_id = row["segments"][0]["doc_id"]
        answer = read_answer(ask("--document", doc_id, "--json", "--run", "models:/tickets/1"))
        assert [each["sequence_id"] for each in answer["sequences"]] == [row["sequence_id"]]
        (found,) = answer["sequences"]
        assert [visit["epoch"] for visit in found["seen"]][:2] == [1, 2]
        for visit in found["seen"]:
            step = read_answer(ask("--step", str(visit["step"]), "--rank", str(visit["rank"]), "--json"))
            assert row["sequence_id"] in [each["sequence_id"] for each in step["sequences"]]


def test_losses_of_sequences_of_both_ranks_are_in_the_table_of_the_run(ask, flow, spark, monkeypatch):
    answer = read_answer(ask("--spike", "--json", "--deviations", "1.0"))
    steps = answer["total_steps"]
    assert (answer["has_sequence_losses"], answer["num_points"], answer["last_step"]) == (True, steps, steps)
    assert answer["spikes"], "losses of random rows differ by more than one deviation"
    run = read_current(flow.configs["finetune"].folder)
    losses = spark.read.format("delta").load(f"{run.folder}/sequence_losses")
    rows = losses.where(losses.step == answer["spikes"][0]["step"]).collect()
    assert pin(f"{run.folder}/sequence_losses").facts["run"] == run.run_id == answer["run"]
    assert sorted(row["rank"] for row in rows) == [0] * 8 + [1] * 8
    mean = sum(row["loss_sum"] for row in rows) / 16
    assert answer["spikes"][0]["loss"] == pytest.approx(mean, rel=1e-12)
    highest = max(rows, key=lambda row: row["loss_sum"])
    assert answer["spikes"][0]["sequences"][0]["sequence_id"] == highest["sequence_id"]
    logged = Lookup(flow.configs["finetune"].tracking.uri).read_history(run.run_id, "train/loss")
    assert logged[answer["spikes"][0]["step"]] == pytest.approx(mean, rel=1e-5)
    ranks = {row["sequence_id"]: row["rank"] for row in rows}
    for row in answer["spikes"][0]["sequences"]:
        assert row["rank"] == ranks[row["sequence_id"]]
    continued = find_run(flow.configs["finetune"], None)._replace(other_num_ranks="4")
    monkeypatch.setattr(trace, "find_run", lambda config, name: continued)
    assert read_answer(ask("--spike", "--json", "--deviations", "1.0"))["spikes"] == answer["spikes"]
    assert "choose one with --num-ranks" in ask("--step", "1").stderr
    shown = ask("--spike", "--deviations", "1.0", "--text")
    assert shown.exit_code == 0
    assert f"step {answer['spikes'][0]['step']}: loss " in shown.stdout


def test_a_dropped_document_is_named_with_its_rule(ask, flow, spark):
    documents = DOCUMENTS.read(spark, flow.configs["corpus"].documents)
    dropped = documents.where("drop_reason IS NOT NULL").collect()
    assert dropped
    result = ask("--document", dropped[0]["doc_id"])
    assert result.exit_code == 65
    assert f"was dropped by {dropped[0]['drop_reason']} in version" in result.stderr
    result = ask("--document", "0" * 32)
    assert result.exit_code == 65
    assert f"there is no document {'0' * 32} in version" in result.stderr


def test_a_question_is_a_step_or_a_document(ask):
    twice = (("--step", "1", "--document", "0" * 32), ("--step", "1", "--spike"))
    for words in ((), *twice, ("--document", "0" * 32, "--rank", "1"), ("--spike", "--rank", "1")):
        assert ask(*words).exit_code == 2
    result = ask("--step", "1", "--deviations", "3")
    assert result.exit_code == 2
    assert "--deviations belongs to --spike" in click.unstyle(result.output)


def test_json_holds_texts_as_they_are_but_no_secret_of_the_place():
    segment = {"doc_id": "d", "first_token": 3, "text": "http://a:b@c password=hunter2 \x9b31m 密码"}
    answer = {"table": {"path": "http://me:hunter2@host/t"}, "sequences": [{"segments": [segment]}]}
    line = format_json(answer)
    found = json.loads(line)
    assert found["sequences"][0]["segments"] == [segment]
    assert "hunter2" not in found["table"]["path"]
    assert "\x9b" not in line
    assert "密码" in line


def test_a_table_shows_ids_whole(monkeypatch, capsys):
    monkeypatch.setattr(console, "_width", 80)
    segment = {"doc_id": "0123456789abcdef" * 2, "first_token": 1_000, "num_tokens": 1_048}
    segment |= {"char_start": 1_000_000, "char_end": 1_012_345, "text": "a text of a document"}
    rows = [{"row": 1_234_567, "rank": 100, "segments": [segment]}]
    display_step({"step": 12_345, "num_ranks": 128, "sequences": rows})
    assert segment["doc_id"] in capsys.readouterr().out
