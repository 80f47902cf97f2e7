"""Files, leases, checkpoints and sources on a real S3 server and a real HDFS."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256

import pyarrow.fs as pafs
import pytest

from pipelines.corpus.listing import find_files
from pipelines.lease import Lease
from pipelines.pin import open_log
from pipelines.storage import Folder, locate
from pipelines.stores_check import check_store, require_reachable
from tests.servers.s3 import BUCKET

pytestmark = pytest.mark.slow


def list_everything(root):
    """Paths of all files and folder markers below `root`."""
    files, path = locate(root)
    found = files.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True))
    return sorted(info.path.removeprefix(path).strip("/") for info in found)


def test_a_folder_keeps_its_promises(root):
    folder = Folder(root)
    folder.write("a/项 #1%20", b"one")
    folder.write("a/项 #1%20", b"two")
    folder.write("b", b"")
    assert folder.read("a/项 #1%20") == b"two"
    assert (folder.names(), (folder / "a").names()) == (["a", "b"], ["项 #1%20"])
    assert [folder.exists(name) for name in ("a/项 #1%20", "a", "c")] == [True, False, False]
    with folder.local("a") as copy:
        assert (copy / "项 #1%20").read_bytes() == b"two"
    for name in ("a", "b", "never there"):
        folder.delete(name)
    assert folder.names() == []
    with pytest.raises(FileNotFoundError):
        folder.read("b")


def test_of_many_creators_exactly_one_wins(root):
    folders = [Folder(root) for _ in range(4)]

    def create(name: str, number: int) -> bool:
        return folders[number % 4].create(name, f"{number}".encode())

    for name in ("lock-1", "lock-2", "lock-3"):
        with ThreadPoolExecutor(8) as pool:
            created = list(pool.map(partial(create, name), range(16)))
        assert sum(created) == 1
        assert folders[0].read(name) == f"{created.index(True)}".encode()
    assert list_everything(root) == ["lock-1", "lock-2", "lock-3"]


def test_a_replaced_file_is_never_missing(root):
    folder, seen, ended = Folder(root), set(), threading.Event()
    folder.write("pointer", b"00" * 1000)

    def read():
        while not ended.is_set():
            seen.add(folder.read("pointer"))

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        # The reader gets its turns when the machine gives them: write until it has met several contents.
        for number in range(1, 1000):
            folder.write("pointer", f"{number % 100:02}".encode() * 1000)
            if (number >= 10 and len(seen) > 3) or reading.done():
                break
        ended.set()
        reading.result()
    assert {len(content) for content in seen} == {2000}
    assert len(seen) > 3


def test_no_marker_objects_are_left_in_s3(configured, tmp_path):
    folder = Folder(f"s3a://{BUCKET}/{tmp_path.name}")
    folder.write("a/b/c", b"1")
    folder.delete("a/b/c")
    files, path = locate(folder.path)
    # Arrow shows an empty marker as a folder.
    assert files.get_file_info(path).type == pafs.FileType.NotFound


def test_a_large_file_is_sent_in_parts(root):
    content = bytes(range(256)) * 200_000  # 51 MB
    Folder(root).write("weights", memoryview(content))
    assert Folder(root).read("weights") == content


def test_a_file_in_chunks_is_whole_or_not_there(root):
    """Chunks of other sizes than parts and blocks, of a file of several parts; it is read in parts, too."""
    folder, chunk = Folder(root), bytes(range(256)) * 20_000  # 5 MB
    folder.write_chunks("large", (memoryview(chunk) for _ in range(8)), num_bytes=8 * len(chunk))
    with folder.open("large") as stream:
        assert stream.size() == 8 * len(chunk)
        found, buffer = sha256(), bytearray(3_000_001)
        while num_bytes := stream.readinto(buffer):
            found.update(memoryview(buffer)[:num_bytes])
    assert found.digest() == sha256(chunk * 8).digest()

    def fail():
        yield from [chunk] * 5
        raise ValueError("a tensor that cannot be read")

    # Another name: S3Mock deletes an object if the upload that would replace it is given up. S3 does not.
    with pytest.raises(ValueError, match="a tensor that cannot be read"):
        folder.write_chunks("other", fail(), num_bytes=8 * len(chunk))
    assert list_everything(root) == ["large"]
    assert len(folder.read("large")) == 8 * len(chunk)


def test_a_lease_is_held_by_one(root):
    folder = Folder(root)
    with Lease(folder, renew_seconds=0.2) as lease:
        time.sleep(1)
        lease.require()
        with pytest.raises(RuntimeError, match="is in use by process"):
            Lease(folder).__enter__()
    assert folder.names() == []


def test_files_are_listed_as_on_a_disk(root):
    folder = Folder(root)
    for name in ("2024/a.jsonl", "2024/b.jsonl", "2025/a.jsonl", "2025/_SUCCESS", "2025/.hidden/x.jsonl"):
        folder.write(name, b"{}\n")
    assert sorted(file.relative for file in find_files(root)) == [
        "2024/a.jsonl",
        "2024/b.jsonl",
        "2025/a.jsonl",
    ]
    assert sorted(file.relative for file in find_files(f"{root}/*/a.jsonl")) == [
        "2024/a.jsonl",
        "2025/a.jsonl",
    ]
    assert all(file.size == 3 and file.modified_ns > 0 for file in find_files(root))


def test_clients_agree_on_a_healthy_store(root):
    require_reachable(root)
    assert [(finding.client, finding.problem) for finding in check_store(root)] == [
        ("Arrow and obstore", ""),
        ("delta-rs", ""),
    ]
    assert list_everything(root) == []
    assert open_log(f"{root}/no-table") is None


def test_a_missing_bucket_is_named(configured):
    with pytest.raises(OSError, match=r"NoSuchBucket: .*create the bucket, or correct root"):
        require_reachable("s3a://no-such-bucket/x")


@pytest.mark.parametrize("fault", ["killed", "hanging"])
def test_work_survives_an_outage(root, servers, fault):
    server, folder = servers[root.partition(":")[0]], Folder(root)
    folder.write("before", b"1")
    started = time.monotonic()
    if fault == "killed":
        server.kill()
    else:
        server.pause()
    with ThreadPoolExecutor(4) as pool:
        done = [
            pool.submit(folder.read, "before"),
            pool.submit(folder.write, "written", b"2"),
            pool.submit(folder.create, "created", b"3"),
            pool.submit(folder.names),
        ]
        time.sleep(6)
        assert not any(each.done() for each in done)
        if fault == "killed":
            server.start()
        else:
            server.resume()
        assert done[0].result(60) == b"1"
        done[1].result(60)
        assert done[2].result(60) is True
        done[3].result(60)
    assert folder.names() == ["before", "created", "written"]
    assert time.monotonic() - started < 90
