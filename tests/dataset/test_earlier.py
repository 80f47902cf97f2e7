"""Which files of the documents an increment opens."""

import json

import pytest

from pipelines.dataset.earlier import Bounds, ChangedFiles, find_changed_files
from pipelines.pin import Pin

FILES = {
    "a": Bounds(("web", "web"), ("web/1", "web/4")),
    "b": Bounds(("books", "web"), None),
    "c": Bounds(None, ("books/1", "books/1")),
    "d": Bounds(("web", "web"), ("web/5", "web/9")),
}


@pytest.mark.parametrize(
    ("places", "found"),
    [
        ({"web": {"web/1"}}, "ab"),
        ({"web": {"web/4", "web/5"}}, "abd"),
        ({"web": None}, "abcd"),
        ({"books": {"books/1"}}, "bc"),
        ({"books": None}, "bc"),
        ({"码": {"web/1"}}, ""),
        ({"books": {"books/2"}, "web": {"web/9"}}, "bd"),
        ({"web": {"web/0", "web/10"}}, "ab"),
        ({"web": {"web/0", "web/95"}}, "b"),
        ({}, ""),
    ],
)
def test_files_that_may_hold_a_place(places, found):
    files = ChangedFiles("documents", list(FILES), [], [], FILES)
    assert files.find_places(places) == list(found)


def write_log(folder, version, actions):
    (folder / "_delta_log").mkdir(parents=True, exist_ok=True)
    text = "\n".join(json.dumps(action) for action in actions)
    (folder / "_delta_log" / f"{version:020}.json").write_text(text, encoding="utf-8")


def make_action(path, **largest):
    statistics = {"numRecords": 1, "minValues": {"source": "a", "file": "a"}, "maxValues": largest}
    action = {"path": path, "partitionValues": {}, "size": 1, "modificationTime": 0, "dataChange": True}
    return {"add": {**action, "stats": json.dumps(statistics)}}


def test_an_upper_bound_that_delta_cut_is_not_believed(tmp_path):
    names = ("source", "file")
    fields = [{"name": name, "type": "string", "nullable": True, "metadata": {}} for name in names]
    about = {"id": "t", "format": {"provider": "parquet", "options": {}}, "partitionColumns": []}
    about |= {"schemaString": json.dumps({"type": "struct", "fields": fields}), "configuration": {}}
    whole, cut = make_action("whole", source="b", file="b"), make_action("cut", source="b", file="a\ufffd")
    protocol = {"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}
    write_log(tmp_path, 0, [protocol, {"metaData": about}, whole])
    write_log(tmp_path, 1, [cut])
    pinned = Pin(
        table="documents",
        path=str(tmp_path),
        table_id="t",
        version=1,
        digest="",
        num_rows=2,
        fingerprint="",
        facts={"documents": {"version": 0}},
    )
    files = find_changed_files(pinned, pinned)
    assert files.bounds == {"whole": Bounds(("a", "b"), ("a", "b")), "cut": Bounds(("a", "b"), None)}
    assert files.find_places({"b": {"a\U0001f600"}}) == ["cut", "whole"]
    assert files.find_places({"b": {"c"}}) == ["cut"]
