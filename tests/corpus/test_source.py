"""Rules for sources, and the files that a source names. Without Spark."""

import os
import subprocess
import sys

import pytest
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from pipelines.corpus.listing import find_entries, list_files, relative_to
from pipelines.corpus.readers.format import Format, SourceFile
from pipelines.corpus.readers.table import FORMATS
from pipelines.corpus.source import Source

CSV = {"format": "csv", "fields": {"text": "a"}}


def source(path, **knobs):
    return Source(**{"name": "s", "path": str(path), "format": "text", **knobs})


def names(path):
    return [file.relative for file in list_files(source(path))]


@pytest.fixture
def folder(tmp_path):
    for name in (
        "b.txt",
        "a.txt",
        "c.csv",
        "_SUCCESS",
        ".hidden",
        "年报/甲.txt",
        "年报/[1].txt",
        "_log/x.txt",
        "deep/er/d.txt",
    ):
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(name)
    return tmp_path / "root"


GLOBS = [
    ("", ["a.txt", "b.txt", "c.csv", "deep/er/d.txt", "年报/[1].txt", "年报/甲.txt"]),
    ("/*.txt", ["a.txt", "b.txt"]),
    ("/?.csv", ["c.csv"]),
    ("/[!b].txt", ["a.txt"]),
    ("/[a-b].txt", ["a.txt", "b.txt"]),
    ("/*/*.txt", ["年报/[1].txt", "年报/甲.txt"]),
    ("/年报/[[]1].txt", ["[1].txt"]),
    ("/年报/[1].txt", ["[1].txt"]),
    ("/**/d.txt", ["deep/er/d.txt"]),
    ("/**/a.txt", ["a.txt"]),
    ("/deep/**", ["er/d.txt"]),
    ("/b.txt", ["b.txt"]),
    ("/*", ["a.txt", "b.txt", "c.csv"]),
    ("/_*", ["_SUCCESS"]),
    ("/.h*", [".hidden"]),
    ("/_log/*", ["x.txt"]),
    ("/_log", ["x.txt"]),
    ("/_*/*", ["_log/x.txt"]),
    ("/**/_*/x*", ["_log/x.txt"]),
    ("/**/x.txt", []),
    ("/d*/*/d.txt", ["deep/er/d.txt"]),
    ("/**/*/*.txt", ["deep/er/d.txt", "年报/[1].txt", "年报/甲.txt"]),
    ("/*/**/d.txt", ["deep/er/d.txt"]),
    ("/**/er/**", ["deep/er/d.txt"]),
    ("/[!].txt", []),
    ("/[z-a]*", []),
    ("/a.txt/*", []),
]


@pytest.mark.parametrize(("glob", "expected"), [(glob, expected) for glob, expected in GLOBS if expected])
def test_path_names_files_relative_to_its_root(folder, glob, expected):
    assert names(f"{folder}{glob}") == expected


@pytest.mark.parametrize(("glob", "expected"), GLOBS)
def test_all_file_systems_list_the_same_files(folder, glob, expected):
    # Seen through another file system, the local one is listed by Arrow, like S3 and HDFS.
    root, found = find_entries(SubTreeFileSystem(str(folder.parent), LocalFileSystem()), f"root{glob}")
    assert sorted(relative_to(root, entry.path) for entry in found) == expected
    root, found = find_entries(LocalFileSystem(), f"{folder}{glob}")
    assert sorted(relative_to(root, entry.path) for entry in found) == expected


@pytest.mark.parametrize(
    "glob", ["", "/*.txt", "/**/d.txt", "/b.txt", "/年报/*", "/[!b].txt", "/?.csv", "/年报/%5B1%5D.txt"]
)
@pytest.mark.parametrize("scheme", ["file://", "file:"])
def test_uri_names_the_same_files_as_its_path(folder, glob, scheme):
    assert names(f"{scheme}{folder}{glob}") == names(
        f"{folder}{glob}".replace("%5B", "[").replace("%5D", "]")
    )


def test_uri_may_contain_unescaped_characters(folder, tmp_path):
    odd = folder.rename(tmp_path / "c#1 {项}")
    assert names(f"file://{odd}/*.csv") == ["c.csv"]
    odder = odd.rename(tmp_path / "c?[1]")
    assert names(f"file:{odder}/c.csv") == ["c.csv"]


def test_unknown_scheme_is_reported():
    with pytest.raises(
        ValueError,
        match="source 's': path 'ftp://h/x': Arrow has no file system for ftp:; use file, hdfs, s3",
    ):
        names("ftp://h/x")


@pytest.mark.parametrize("glob", ["/*.txt", "/d*/*/*.txt", "/年报/**"])
def test_glob_lists_only_matching_folders(folder, glob, monkeypatch):
    (folder / "lost+found").mkdir()
    scandir, listed = os.scandir, []
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scandir(path))
    names(f"{folder}{glob}")
    assert listed
    assert f"{folder}/lost+found" not in listed


@pytest.mark.parametrize("glob", ["", "/*/*", "/**/*.txt"])
def test_forbidden_folder_is_reported_with_the_remedy(folder, glob, monkeypatch):
    (folder / "lost+found").mkdir()
    scandir = os.scandir

    def guarded(path):  # a root user may list every folder
        if str(path).endswith("lost+found"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(
        PermissionError, match=r"source 's': .*/lost\+found cannot be listed \(Permission denied\); let this"
    ):
        names(f"{folder}{glob}")


@pytest.mark.parametrize("glob", ["", "/deep/**", "/*/*/*.csv"])
def test_name_that_is_not_utf8_is_reported(folder, glob):
    with open(os.fsencode(folder) + b"/deep/er/\xff.csv", "wb"):
        pass
    with pytest.raises(
        ValueError, match=r"source 's': in .* the name b'.*\\xff.csv' is not UTF-8; rename it"
    ):
        names(f"{folder}{glob}")
    assert names(f"{folder}/deep/*/*.txt") == ["er/d.txt"]


@pytest.mark.parametrize("glob", ["", "/*.txt", "/**/*.txt"])
def test_link_without_target_is_an_error(folder, glob):
    (folder / ".#lock").symlink_to("user@host.1")  # as an editor leaves it
    (folder / "new.txt").symlink_to("gone.txt")
    with pytest.raises(
        FileNotFoundError, match=r"source 's': .*/new.txt is a link to gone.txt, which does not exist; repair"
    ):
        names(f"{folder}{glob}")
    assert names(f"{folder}/*.csv") == ["c.csv"]


def test_links_are_followed_but_not_in_circles(folder, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "o.txt").write_text("o")
    (tmp_path / "other" / "back").symlink_to(folder / "deep")
    (folder / "deep" / "self").symlink_to(".")
    (folder / "deep" / "up").symlink_to("..")
    (folder / "deep" / "side").symlink_to(tmp_path / "other")
    (folder / "copy.txt").symlink_to("a.txt")
    expected = [*GLOBS[0][1], "copy.txt", "deep/side/o.txt"]
    assert names(folder) == names(f"{folder}/**") == sorted(expected)


def test_names_stay_when_the_folder_moves(folder, tmp_path, monkeypatch):
    before = names(folder)
    moved = folder.rename(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    assert names("elsewhere") == names(f"{moved}/") == before


def test_file_is_listed_with_size_and_time(folder):
    (file,) = list_files(source(folder / "a.txt"))
    assert (file.relative, file.size, file.path) == ("a.txt", 5, f"{folder}/a.txt")
    assert file.modified_ns == (folder / "a.txt").stat().st_mtime_ns


@pytest.mark.parametrize("missing", ["nowhere", "*.parquet", "nowhere/*.txt", "empty"])
def test_source_without_files_is_an_error(folder, missing):
    (folder / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"source 's': .*correct the path or bring files there"):
        list_files(source(folder / missing))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"name": "a/b"}, "'a/b': a name consists of"),
        ({"path": ""}, "path is empty"),
        ({"format": "xml"}, "must be one of csv, .*jsonl, .*text.*, got 'xml'"),
        ({"format": "csv"}, "csv needs fields.text"),
        (
            {"fields": {"text": "a"}},
            "a text record has only the field text, encoding; remove a or choose another format",
        ),
        ({"format": "csv", "fields": {"text": "a", "titel": "b"}}, "got titel"),
        ({"splits": {"dev": 1.0}}, "got dev"),
        ({"splits": {"train": 0.8, "test": 0.1}}, "must sum to 1, got 0.9"),
        ({"splits": {"train": 1.5, "test": -0.5}}, "must be 0 or more"),
        ({"splits": {"train": float("nan")}}, "must be 0 or more"),
        ({"splits": {}}, "must sum to 1, got 0"),
        ({"fields": {"text": "text"}, "metadata": {"url": "link"}}, "remove link or choose another format"),
        ({"format": "csv", "fields": {"label": "a"}}, "csv needs fields.text.*; or parts, or messages"),
        ({"format": "jsonl", "parts": {"a": "b"}, "messages": "c"}, "parts and messages both say"),
        ({"options": {"delimiter": ";"}}, "text has no option delimiter; options of text: encoding"),
        (CSV | {"options": {"delimeter": ";"}}, "csv has no option delimeter; options of csv: delimiter"),
        (CSV | {"options": {"delimiter": '"'}}, "options.delimiter must be one character"),
        (CSV | {"options": {"delimiter": ",,"}}, "options.delimiter must be one character"),
        (CSV | {"options": {"delimiter": 1}}, "options.delimiter must be one character, .* got 1"),
        ({"max_record_bytes": 0}, "max_record_bytes must be at least 1, got 0"),
    ],
)
def test_invalid_source_names_the_broken_rule(knobs, message):
    with pytest.raises(ValueError, match=message):
        source(**{"path": "x", **knobs})


def test_format_can_find_its_own_files(monkeypatch):
    """As a table format does: its log names the files."""
    live = [SourceFile(path=f"/t/{name}", relative=name, size=1, modified_ns=0) for name in ("b", "a")]
    found = {"/t": live, "/empty": []}
    monkeypatch.setitem(FORMATS, "log", Format(read=FORMATS["text"].read, find=lambda path, _: found[path]))
    log = {"format": "log", "fields": {"text": "t"}}
    assert [file.relative for file in list_files(source("/t", **log))] == ["a", "b"]
    with pytest.raises(FileNotFoundError, match="source 's': no file at /empty; correct the path"):
        list_files(source("/empty", **log))


def test_checking_a_source_loads_neither_arrow_nor_spark():
    code = (
        "import sys; from pipelines.corpus.source import Source; from pipelines.corpus.rules import Rules;"
        "Rules(); Source(name='s', path='x', format='parquet', fields={'text': 't'});"
        "print(sorted({'pyarrow', 'pyspark', 'numpy', 'deltalake'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
