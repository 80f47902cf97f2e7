from pathlib import Path

import pytest

from pipelines.storage import Folder, absolute


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    folder = Folder(str(tmp_path))
    folder.write("deep/er/file.json", b"one")

    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        folder.write("deep/er/file.json", b"two")
    monkeypatch.undo()
    assert folder.read("deep/er/file.json") == b"one"
    assert (folder / "deep").names() == ["er"]
    assert [path.name for path in (tmp_path / "deep" / "er").iterdir()] == ["file.json"]


def test_deleting_takes_folders_files_and_nothing(tmp_path):
    folder = Folder(f"file://{tmp_path}")
    folder.write("a/b", b"")
    folder.write("c", b"")
    for name in ("a", "c", "never there"):
        folder.delete(name)
    assert folder.names() == []
    assert Folder(str(tmp_path / "no such folder")).names() == []


@pytest.mark.parametrize(("path", "expected"), [
    ("s3://bucket/a", "s3://bucket/a"), ("hdfs:///a", "hdfs:///a"), ("file:///a/b", "/a/b"), ("/a", "/a"),
])
def test_uris_stay_and_local_paths_become_absolute(path, expected):
    assert absolute(path) == expected
    assert absolute("a").startswith("/")
