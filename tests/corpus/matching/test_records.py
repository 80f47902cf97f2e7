"""Evaluation sets as files: which formats, names of records, faults, fingerprint."""

import bz2
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.corpus import decontamination
from pipelines.corpus.decontamination import Decontamination
from pipelines.corpus.manifest import list_sources
from pipelines.corpus.matching.records import read_records
from pipelines.corpus.rules import Rules
from pipelines.corpus.screens import add_screens
from pipelines.corpus.source import Source

QUESTION = "one two three four five six seven eight nine ten eleven twelve thirteen"


def make_set(folder, name="e", format="jsonl", **knobs):  # noqa: A002 - the name of the key
    return Source(name=name, path=str(folder / name), format=format, **{"fields": {"text": "t"}, **knobs})


def write_lines(folder, *records, name="e", file="a.jsonl"):
    (folder / name).mkdir(exist_ok=True)
    lines = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in records]
    (folder / name / file).write_bytes(b"".join(line + b"\n" for line in lines))


def read(*sets):
    return list(read_records(Decontamination(evaluation_sets=sets), list_sources(sets)))


def test_records_of_all_formats_have_names(tmp_path):
    write_lines(tmp_path, {"t": "one", "k": "x"}, {"t": "two", "k": ""}, {"t": "three"})
    write_lines(tmp_path, {"t": "four"}, file="b.jsonl")
    with pytest.raises(ValueError, match=r"'e': the record at 23 of a.jsonl .*key.*; repair or remove it"):
        read(make_set(tmp_path, fields={"text": "t", "key": "k"}))
    assert read(make_set(tmp_path)) == [
        (0, "a.jsonl:0", "one"),
        (0, "a.jsonl:23", "two"),
        (0, "a.jsonl:45", "three"),
        (0, "b.jsonl:0", "four"),
    ]
    pq.write_table(pa.table({"q": ["five", "six"], "a": ["5", "6"]}), tmp_path / "p")
    (tmp_path / "c.csv.bz2").write_bytes(bz2.compress(b'id,t\n7,"seven"\n'))
    parts = make_set(tmp_path, "p", "parquet", fields={}, parts={"question": "q", "answer": "a"})
    table = make_set(tmp_path, "c.csv.bz2", "csv", fields={"text": "t", "key": "id"})
    assert read(parts, table) == [(0, "p:0", "five\n\n5"), (0, "p:1", "six\n\n6"), (1, "7", "seven")]


def test_records_with_one_key_have_names_of_their_own(tmp_path):
    write_lines(tmp_path, {"t": "one", "k": "1"}, {"t": "two", "k": "1"})
    write_lines(tmp_path, {"t": "three", "k": "1"}, name="f")
    fields = {"text": "t", "key": "k"}
    found = read(make_set(tmp_path, fields=fields), make_set(tmp_path, "f", fields=fields))
    assert [name for _, name, _ in found] == ["1", "1 (a.jsonl:23)", "1"]


def test_a_record_that_cannot_be_read_stops_the_stage(tmp_path):
    write_lines(tmp_path, {"t": "one"}, b"{no JSON", {"t": "three"})
    message = r"evaluation set 'e': the record at 13 of a.jsonl cannot be read \(invalid JSON.*\); repair"
    with pytest.raises(ValueError, match=message):
        read(make_set(tmp_path))


def test_a_set_without_files_is_named(tmp_path):
    (tmp_path / "a.txt").write_text("a text")
    manifest = list_sources([Source(name="s", path=f"{tmp_path}/a.txt", format="text")])
    message = r"corpus.decontamination.evaluation_sets: source 'e': no file at .*e; correct the path"
    with pytest.raises(FileNotFoundError, match=message):
        add_screens(manifest, (), Decontamination(evaluation_sets=(make_set(tmp_path),)))


def test_files_of_sets_are_part_of_the_fingerprint(tmp_path):
    (tmp_path / "a.txt").write_text("a text")
    manifest = list_sources([Source(name="s", path=f"{tmp_path}/a.txt", format="text")])
    settings, digests = Decontamination(evaluation_sets=(make_set(tmp_path),)), {manifest.digest}
    for records in ([{"t": QUESTION}], [{"t": QUESTION}, {"t": "x"}]):
        write_lines(tmp_path, *records)
        screened = add_screens(manifest, (), settings)
        digests.add(screened.digest)
        assert add_screens(manifest, (), settings).digest == screened.digest
        assert screened.screens.open_index().num_records == (len(records),)
    assert len(digests) == 3


def test_without_sets_the_fingerprint_stays():
    limits = {"ngram": 8, "max_ngrams": 3}
    assert decontamination.name_inputs({"evaluation_sets": [], **limits}) == {}
    named = {"evaluation_sets": [{"name": "e"}], **limits}
    assert decontamination.name_inputs(named) == {"decontamination": named}


def test_rules_whose_lists_were_not_read_are_refused(tmp_path):
    from pipelines.corpus.measure import prepare_measuring
    from pipelines.corpus.word_list import WordList

    (tmp_path / "a.txt").write_text("a text")
    manifest = list_sources([Source(name="s", path=f"{tmp_path}/a.txt", format="text")])
    with pytest.raises(ValueError, match="word lists of the rules were not read"):
        prepare_measuring(Rules(word_lists=(WordList(name="w", path="p"),)), manifest)
