"""Paths, URIs, and files that are whole or not there."""

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines import storage
from pipelines.paths import absolute
from pipelines.storage import Folder, locate, strict_uri


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    folder = Folder(str(tmp_path))
    folder.write("deep/er/file.json", b"one")

    monkeypatch.setattr(
        Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
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


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("s3://bucket/a", "s3://bucket/a"),
        ("hdfs:///a", "hdfs:///a"),
        ("file:///a/b", "/a/b"),
        ("/a", "/a"),
        ("s3a://b/a?region=eu-west-1", "s3a://b/a?region=eu-west-1"),
        ("file:/a%20b/项", "/a b/项"),
        ("file://localhost/a", "/a"),
    ],
)
def test_uris_stay_and_local_paths_become_absolute(path, expected):
    assert absolute(path) == expected
    assert absolute("a").startswith("/")


@pytest.mark.parametrize(
    ("path", "unfit"),
    [
        ("/a/c#1", "#"),
        ("/a/c?1", "?"),
        ("/a/[x]", "["),
        ("/a/50%20", "%20"),
        ("file:///a/c%231", "#"),
        ("file:///a/c#1", "#"),
        ("s3://b/c#1", "#"),
        ("s3://b/c?1", "?"),
    ],
)
def test_a_table_path_that_delta_would_misread_is_refused(path, unfit):
    with pytest.raises(ValueError, match=rf"path .*: '\{unfit}' cannot stand .*choose a path without it"):
        absolute(path)


@pytest.mark.parametrize(
    ("uri", "kind", "path"),
    [
        ("s3a://b/a?region=us-east-1", "s3", "b/a"),
        ("s3n://b?region=us-east-1", "s3", "b"),
        ("s3://b/a?[x] #1/项/100%/%23?region=us-east-1", "s3", "b/a?[x] #1/项/100%/#"),
        ("gs://anonymous@b/a b", "gcs", "b/a b"),
        ("file:/a/[b]?#c%20d", "local", "/a/[b]?#c d"),
        ("file:///tmp/c#1/x", "local", "/tmp/c#1/x"),
        ("/a%20#?", "local", "/a%20#?"),
    ],
)
def test_a_uri_names_what_it_says(uri, kind, path):
    files, found = locate(uri)
    assert (files.type_name, found) == (kind, path)


def test_an_hdfs_uri_is_escaped_for_arrow_and_keeps_its_authority():
    # As text: its own client reads it in another way.
    assert strict_uri("hdfs://u@h:8020/项 #[") == "hdfs://u@h:8020/%E9%A1%B9%20%23%5B"
    assert strict_uri("hdfs:/a/b") == "hdfs:///a/b"
    assert strict_uri("hdfs://[::1]:8020/a") == "hdfs://[::1]:8020/a"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        (
            "wasbs://user:secret@b/x",
            r"'wasbs://\*\*\*@b/x': Arrow has no file system for wasbs:; use file, hdfs, s3, gs or abfss",
        ),
        (
            "s3://user:secret@b/x?regio=a",
            r"'s3://\*\*\*@b/x\?regio=a': Unexpected query parameter in S3 URI: 'regio'",
        ),
        ("s3://user:secret@b@/x", r"Cannot parse URI: 's3://\*\*\*@b@/x'"),
        ("file://node7/x", "names the machine 'node7'; write file:///PATH"),
        ("dbfs:/x", "/dbfs is not mounted here; use the URI"),
    ],
)
def test_a_uri_that_leads_nowhere_says_why_without_its_password(uri, message):
    with pytest.raises(ValueError, match=message) as raised:
        locate(uri)
    assert "secret" not in str(raised.value)


def test_dbfs_is_read_where_databricks_mounts_it(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "DBFS", tmp_path)
    assert locate("dbfs:/a%20b/c")[1] == f"{tmp_path}/a b/c"


def test_a_folder_in_a_folder_keeps_the_options_of_its_store():
    folder = Folder("s3a://b/x/?region=eu-west-1") / "y/z"
    assert folder.path == "s3a://b/x/y/z?region=eu-west-1"
    assert (Folder("/a?b=c") / "d").path == "/a?b=c/d"


def test_of_many_creators_exactly_one_succeeds(tmp_path):
    folder = Folder(str(tmp_path))
    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(lambda n: folder.create("a/lock", f"{n}".encode()), range(32)))
    assert sum(created) == 1
    assert folder.read("a/lock") == f"{created.index(True)}".encode()
    assert (folder / "a").names() == ["lock"] == [path.name for path in (tmp_path / "a").iterdir()]


def test_a_mount_without_hard_links_creates_once_too(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    folder = Folder(str(tmp_path))
    assert [folder.create("lock", content) for content in (b"first", b"second")] == [True, False]
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("lock", b"first")]


@pytest.mark.parametrize(
    "path", ["s3://key:hunter2@bucket/x", "s3a://k:hunter2@b/x", "abfss://me:hunter2@account/x"]
)
def test_a_password_in_a_path_is_refused_and_not_repeated(path):
    with pytest.raises(
        ValueError, match="holds a password, which would be written into tables and runs"
    ) as caught:
        absolute(path)
    assert "hunter2" not in str(caught.value)


def test_a_user_or_container_in_a_uri_is_no_password():
    assert (
        absolute("abfss://container@account.dfs.core.windows.net/x")
        == "abfss://container@account.dfs.core.windows.net/x"
    )
