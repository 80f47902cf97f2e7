"""The loop of a stream. Rounds are plain functions; `tests/process/test_stream.py` has the real stage."""

import subprocess
from types import SimpleNamespace

import pytest
from pyspark import SparkContext

from jobs.shell.plan import Outcome
from jobs.shell.stream import follow
from pipelines.contract import ChangedMeanwhileError
from pipelines.corpus.listing import NoFilesError


class StreamEndedError(Exception):
    """What the last round raises."""


def play(*rounds, seconds=60.0):
    """(outcomes that were noted, seconds waited) of rounds: an Outcome or an error each."""
    left, noted, waited = list(rounds), [], []

    def run_once():
        if not left:
            raise StreamEndedError
        if isinstance(left[0], Exception):
            raise left.pop(0)
        return left.pop(0)

    with pytest.raises(StreamEndedError):
        follow(run_once, seconds, noted.append, waited.append)
    return noted, waited


def made(why, ran=True):
    return Outcome(stage="corpus", ran=ran, why=why)


def test_rounds_without_new_files_are_silent():
    idle = made("idle", ran=False)
    noted, waited = play(idle, idle, made("2 new files"), idle)
    assert [outcome.why for outcome in noted] == ["idle", "2 new files"]
    assert len(waited) == 4


def test_the_interval_counts_from_the_start():
    _, waited = play(made("a"), seconds=0.5)
    assert 0.4 < waited[0] <= 0.5
    assert play(made("a"), seconds=0.0)[1] == [0.0]


def test_errors_that_may_pass_are_tried_again(capsys):
    waiting, store = NoFilesError("source 's': no file at x"), ConnectionResetError(104, "reset")
    noted, _ = play(waiting, waiting, made("first"), store, made("second"))
    assert [outcome.why for outcome in noted] == ["first", "second"]
    printed = capsys.readouterr().out
    assert printed.count("no file at x") == 1  # a folder that stays empty fills no log
    assert "tries again every 60 s" in printed
    assert "reset" in printed


def test_a_stream_ends_with_its_jvm(monkeypatch):
    ended = subprocess.Popen(["true"])
    ended.wait()
    monkeypatch.setattr(SparkContext, "_gateway", SimpleNamespace(proc=ended))
    with pytest.raises(ConnectionRefusedError):
        play(made("first"), ConnectionRefusedError(111, "Connection refused"))


def test_files_that_changed_during_a_round_are_read_in_the_next():
    noted, _ = play(made("first"), ChangedMeanwhileError("files changed"), made("second"))
    assert [outcome.why for outcome in noted] == ["first", "second"]


def test_other_errors_end_the_stream():
    with pytest.raises(ValueError, match="1 file changed"):
        play(made("first"), ValueError("corpus: 1 file changed"))
