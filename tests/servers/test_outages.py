"""The servers of HDFS go away while tables and files are read and written, and come back: nothing fails, and
nothing is written twice. No Spark."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from pipelines.commit import commit_shards
from pipelines.dataset.reader import open_split
from pipelines.hdfs_streams import KEPT_BYTES
from pipelines.pin import open_log, pin
from pipelines.storage import locate
from tests.dataset.test_copying import write_files
from tests.servers.hdfs import hdfs_cluster
from tests.test_commits import commit, create, record_of
from tests.test_shards import batch, plan_for, write

pytestmark = pytest.mark.slow

AWAY_SECONDS = 4
"""Beside the start of the servers, which takes 5 to 20 s."""
TEXT = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture(scope="module")
def hdfs(tmp_path_factory):
    """An HDFS of this file alone: other tests must not meet its outages."""
    with hdfs_cluster(tmp_path_factory.mktemp("outages")) as cluster:
        yield cluster


@pytest.fixture
def root(hdfs, configured, tmp_path):
    return f"{hdfs.uri}/{tmp_path.name}"


def work_through(outage: Any, work: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    """The answers of calls that begin while a server is away. None answers before it is back."""
    outage.kill()
    with ThreadPoolExecutor(len(work)) as pool:
        running = {name: pool.submit(call) for name, call in work.items()}
        time.sleep(AWAY_SECONDS)
        early = [name for name, each in running.items() if each.done()]
        outage.start()
        assert not early, {name: running[name].exception() for name in early}
        return {name: each.result(90) for name, each in running.items()}


@pytest.mark.parametrize("server", ["data node", "all"])
def test_tables_and_files_survive_an_outage(hdfs, root, tmp_path, server):
    table, sequences = f"{root}/numbers", f"{root}/sequences"
    create(table)
    commit(table, "first")
    write_deltalake(sequences, write_files(tmp_path / "raw", num_files=2).to_table())
    pinned = {"table_id": open_log(sequences).source.table_id, "version": 0}
    log, (_, shards) = open_log(table), write(plan_for(table, folder="w-second"), batch([2, 3]))
    record = record_of("second", number=log.last_number() + 1)
    files, path = locate(root)
    with files.open_output_stream(f"{path}/read") as sink:
        sink.write(TEXT)
    source, sink = files.open_input_file(f"{path}/read"), files.open_output_stream(f"{path}/written")
    assert source.read(100) == TEXT[:100]
    sink.write(TEXT[:100])

    def write_rest() -> None:
        sink.write(TEXT[100:])
        sink.close()

    answers = work_through(
        hdfs.data_node if server == "data node" else hdfs,
        {
            "log": lambda: open_log(table).pin().fingerprint,
            "commit": partial(commit_shards, log, shards, replace=False, record=record),
            "create": partial(create, f"{root}/new"),
            "read": source.read,
            "write": write_rest,
            "shard": partial(write, plan_for(f"{root}/new", folder="w-new"), batch([4])),
            "copy": partial(open_split, sequences, **pinned, split="train", copies=tmp_path),
        },
    )
    assert answers["log"] in ("first", "second")  # whether the commit or the reader was faster
    assert (pin(table).fingerprint, open_log(table).version) == ("second", 2)
    assert sorted(open_log(table).source.table.to_pyarrow_table()["number"].to_pylist()) == [1, 2, 3]
    assert open_log(f"{root}/new").version == 0
    assert answers["read"] == TEXT[100:]
    assert files.open_input_file(f"{path}/written").read() == TEXT
    (shard,) = answers["shard"][1]
    with files.open_input_file(f"{path}/new/{shard.path}") as stream:
        assert pq.read_table(stream)["number"].to_pylist() == [4]
    assert answers["copy"].rows(np.arange(100)).input_ids[99].tolist() == [99, 100]


def test_a_large_file_fails_and_the_next_one_waits(hdfs, root):
    files, path = locate(root)
    sink = files.open_output_stream(f"{path}/large")
    sink.write(b"1" * (KEPT_BYTES + 1))
    hdfs.data_node.kill()
    with pytest.raises(OSError, match=r"/large: HDFS lost the file at \d+ bytes"):  # noqa: PT012
        for _ in range(20):
            sink.write(TEXT)
            time.sleep(0.1)
    started = time.monotonic()
    with pytest.raises(OSError, match="HDFS lost the file"):
        sink.close()
    assert time.monotonic() - started < 10, "a file that is lost is not waited for"
    with ThreadPoolExecutor(1) as pool:
        again = pool.submit(write, plan_for(root, folder="w-again"), batch([1]))
        time.sleep(AWAY_SECONDS)
        assert not again.done()
        hdfs.data_node.start()
        _, (shard,) = again.result(90)
    assert files.get_file_info(f"{path}/{shard.path}").size == shard.num_bytes


def test_a_file_that_changed_meanwhile_is_refused(hdfs, root):
    files, path = locate(root)
    for content in (TEXT, TEXT + b"more"):
        with files.open_output_stream(f"{path}/raw") as sink:
            sink.write(content)
        if content == TEXT:
            source = files.open_input_file(f"{path}/raw")
    time.sleep(5)  # until the data node has deleted the blocks of the first one
    with pytest.raises(OSError, match=rf"{path}/raw changed while it was read: it had {len(TEXT)} bytes"):
        source.read()
