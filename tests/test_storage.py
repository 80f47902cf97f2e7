"""Paths, URIs, and files that are whole or not there."""

import errno
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipelines import storage
from pipelines.paths import absolute, without_credentials
from pipelines.storage import Folder, locate, strict_uri
from pipelines.stores import S3, Stores


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


def test_a_file_in_chunks_is_whole_or_not_there(tmp_path):
    folder = Folder(str(tmp_path))
    folder.write_chunks("deep/file", [b"one ", memoryview(b"and two")], num_bytes=11)
    with folder.open("deep/file") as stream:
        assert (stream.size(), stream.read(4), stream.read()) == (11, b"one ", b"and two")

    def fail():
        yield b"three"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        folder.write_chunks("deep/file", fail(), num_bytes=11)
    assert folder.read("deep/file") == b"one and two"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file"]
    with pytest.raises(FileNotFoundError):
        folder.open("deep/other")


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


@contextmanager
def forgetful_s3():
    """The endpoint of a server that keeps objects, and whose answer to the first put is lost behind a proxy:
    the object is there, the client sees 502."""
    objects, puts = {}, []

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self):
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            puts.append(content)
            if self.headers.get("If-None-Match") == "*" and self.path in objects:
                self.answer(412)
                return
            objects[self.path] = content
            self.answer(502 if len(puts) == 1 else 200)

        def do_GET(self):
            self.answer(200, objects[self.path])

        def answer(self, status, content=b""):
            self.send_response(status)
            self.send_header("ETag", '"1"')
            self.send_header("Last-Modified", "Mon, 02 Mar 2026 10:00:00 GMT")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", puts
    finally:
        server.shutdown()
        server.server_close()


def test_a_creator_whose_answer_was_lost_knows_its_object():
    with forgetful_s3() as (endpoint, puts):
        keys = {"credentials": "keys", "access_key": "k", "secret_key": "s"}
        folder = Folder("s3://lake/x", Stores(s3=S3(endpoint=endpoint, **keys)))
        assert folder.create("lock", b"mine")
        assert puts == [b"mine", b"mine"]
        assert not folder.create("lock", b"of another")


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
    "path",
    [
        "s3://key:hunter2@bucket/x",
        "s3a://k:hunter2@b/x",
        "abfss://me:hunter2@account/x",
        "s3://key:ab/hunter2+cd/e@bucket/x",  # keys of AWS have slashes, which should be %2F
        "s3://key:12hunter2/x@bucket",
    ],
)
def test_a_password_in_a_path_is_refused_and_not_repeated(path):
    with pytest.raises(
        ValueError, match="holds a password, which would be written into tables and runs"
    ) as caught:
        absolute(path)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "path",
    [
        "abfss://container@account.dfs.core.windows.net/x",
        "hdfs://node:8020/a@b",
        "hdfs://node:8020",
        "s3://bucket/a@b:c@d",
    ],
)
def test_what_has_a_colon_or_at_may_be_no_password(path):
    assert absolute(path) == path
    assert without_credentials(path).endswith(path.partition("@")[2])


def test_only_the_password_of_a_text_is_hidden():
    text = "s3://k:a/b@x/y and http://node:80 refused, ask me@here; http://node:80/a, mail b@c"
    assert without_credentials(text) == text.replace("k:a/b", "***")
