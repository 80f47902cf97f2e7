"""What a source may say, and which files it names. Without Spark."""

import pytest

from pipelines.corpus.source import Source, list_files


def source(path, **knobs):
    return Source(**{"name": "s", "path": str(path), "format": "text", **knobs})


def names(path):
    return [file.relative for file in list_files(source(path))]


@pytest.fixture
def folder(tmp_path):
    for name in ("b.txt", "a.txt", "c.csv", "_SUCCESS", ".hidden", "年报/甲.txt", "年报/[1].txt", "_log/x.txt", "deep/er/d.txt"):
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(name)
    return tmp_path / "root"


@pytest.mark.parametrize(("glob", "expected"), [
    ("", ["a.txt", "b.txt", "c.csv", "deep/er/d.txt", "年报/[1].txt", "年报/甲.txt"]),
    ("/*.txt", ["a.txt", "b.txt"]), ("/?.csv", ["c.csv"]), ("/[!b].txt", ["a.txt"]), ("/[a-b].txt", ["a.txt", "b.txt"]),
    ("/*/*.txt", ["_log/x.txt", "年报/[1].txt", "年报/甲.txt"]), ("/年报/[[]1].txt", ["[1].txt"]), ("/年报/[1].txt", ["[1].txt"]),
    ("/**/d.txt", ["deep/er/d.txt"]), ("/**/a.txt", ["a.txt"]), ("/deep/**", ["er/d.txt"]), ("/b.txt", ["b.txt"]),
])
def test_a_path_names_files_relative_to_its_root(folder, glob, expected):
    assert names(f"{folder}{glob}") == expected


@pytest.mark.parametrize("glob", ["", "/*.txt", "/**/d.txt", "/b.txt", "/年报/*"])
def test_a_uri_names_the_same_files_as_its_path(folder, glob):
    assert names(f"file://{folder}{glob}") == names(f"{folder}{glob}")


def test_names_stay_when_the_folder_moves(folder, tmp_path, monkeypatch):
    before = names(folder)
    moved = folder.rename(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    assert names("elsewhere") == names(f"{moved}/") == before


def test_a_file_is_listed_with_size_and_time(folder):
    (file,) = list_files(source(folder / "a.txt"))
    assert (file.relative, file.size, file.path) == ("a.txt", 5, f"{folder}/a.txt")
    assert file.modified_ns == (folder / "a.txt").stat().st_mtime_ns


@pytest.mark.parametrize("missing", ["nowhere", "*.parquet", "nowhere/*.txt", "empty"])
def test_a_source_without_files_is_an_error(folder, missing):
    (folder / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"source 's': .*correct path or bring files there"):
        list_files(source(folder / missing))


@pytest.mark.parametrize(("knobs", "message"), [
    ({"name": "a/b"}, "'a/b': a name has"),
    ({"path": ""}, "path is empty"),
    ({"format": "xml"}, "must be one of csv, jsonl, text, got 'xml'"),
    ({"format": "csv"}, "csv needs fields.text"),
    ({"fields": {"text": "a"}}, "a text file has no fields"),
    ({"format": "csv", "fields": {"text": "a", "titel": "b"}}, "got titel"),
    ({"splits": {"dev": 1.0}}, "got dev"),
    ({"splits": {"train": 0.8, "test": 0.1}}, "must sum to 1, got 0.9"),
    ({"splits": {"train": 1.5, "test": -0.5}}, "must be 0 or more"),
    ({"splits": {"train": float("nan")}}, "must be 0 or more"),
    ({"splits": {}}, "must sum to 1, got 0"),
    ({"delimiter": '"'}, "delimiter must be one character"),
    ({"delimiter": ",,"}, "delimiter must be one character"),
    ({"max_record_bytes": 0}, "max_record_bytes must be at least 1, got 0"),
])
def test_a_source_that_makes_no_sense_says_which_rule_it_breaks(knobs, message):
    with pytest.raises(ValueError, match=message):
        source(**{"path": "x", **knobs})
