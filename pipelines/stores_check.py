"""Does storage answer? Each client tries what the stages will do: list, write, read, create on a condition,
rename, delete.

`require_reachable` is the quick look at the start of a command. `check_store` (Python's clients; also in a
task of an executor) and `check_hadoop` (Spark's) are the long look of `distributary doctor`. No check waits
longer than LIMIT_SECONDS for one client.
"""

import platform
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.fs as pafs
from deltalake import DeltaTable, write_deltalake

from pipelines.objects import ObjectStore
from pipelines.paths import is_remote, split_scheme, without_credentials
from pipelines.storage import Folder, locate
from pipelines.stores import S3_SCHEMES, Stores, current, delta_options, spark_conf

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

LIMIT_SECONDS = 12.0
"""For one client. Clients give up after 5 s by their settings; one that hangs is not waited for."""
CONTENT = b"distributary"
LOOK = "look"
"""The first step of each client: one request that changes nothing."""
_Steps = Callable[[], Iterator[str]]
"""Does one step after another and yields the name of each before it is done."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What one client could do with the storage."""

    client: str
    """Arrow and obstore, delta-rs, or Hadoop."""
    host: str
    step: str
    """The step that failed; empty = all steps succeeded."""
    problem: str = ""
    fix: str = ""


def require_reachable(path: str) -> None:
    """Return if the store of `path` answers, accepts the keys and has the bucket; nothing is written.

    Raises OSError with client, cause and remedy within LIMIT_SECONDS and a moment.
    """
    stores = replace(current(), patience_seconds=0)

    def look() -> Iterator[str]:
        yield LOOK
        _look(path, stores)

    def look_by_delta() -> Iterator[str]:
        yield LOOK
        DeltaTable.is_deltatable(f"{path.rstrip('/')}/documents", storage_options=delta_options(path, stores))

    clients = {"Arrow and obstore": look, "delta-rs": look_by_delta}
    for finding in _try_clients(clients, path) if is_remote(path) else ():
        if finding.step:
            raise OSError(
                f"storage {without_credentials(path)} cannot be used ({finding.client}): {finding.problem}; "
                f"{finding.fix}"
            )


def check_store(path: str) -> list[Finding]:
    """What the clients of Python can do below `path`, on this machine. Leaves nothing behind.

    On executors, call it through `stores.carry`.
    """
    stores = replace(current(), patience_seconds=0)
    scratch = f"{path.rstrip('/')}/.check-{uuid.uuid4().hex}"
    clients = {
        "Arrow and obstore": lambda: _try_files(path, scratch, stores),
        "delta-rs": lambda: _try_delta(f"{scratch}-delta", stores),
    }
    findings = list(_try_clients(clients, path))
    if not any(finding.step == LOOK for finding in findings):
        for name in (scratch, f"{scratch}-delta"):
            Folder(path, stores).delete(name.rpartition("/")[2])
    return findings


def check_hadoop(spark: "SparkSession", path: str) -> list[Finding]:
    """What Spark's Hadoop client can do below `path`, on the driver. Leaves nothing behind."""
    scratch = f"{path.rstrip('/')}/.check-{uuid.uuid4().hex}"
    return list(_try_clients({"Hadoop": lambda: _try_hadoop(spark, path, scratch)}, path))


def _look(path: str, stores: Stores) -> None:
    """One request; an empty folder is fine, a missing bucket is not."""
    files, root = locate(path, stores)
    if split_scheme(path)[0] in S3_SCHEMES:
        ObjectStore(path, root, stores).look()
    files.get_file_info(root)


def _try_files(path: str, scratch: str, stores: Stores) -> Iterator[str]:
    yield LOOK
    _look(path, stores)
    folder = Folder(scratch, stores)
    yield "write"
    folder.write("written", CONTENT)
    yield "read"
    _require(folder.read("written") == CONTENT, "a file has other content than was written")
    yield "list"
    _require(folder.names() == ["written"], "a new file is missing in the list of its folder")
    yield "create on a condition"
    _require(folder.create("created", CONTENT), "a file that did not exist could not be created")
    _require(
        not folder.create("created", b"again"),
        "a file was created twice: the store ignores conditions (If-None-Match), and two writers would lose "
        "rows",
    )
    yield "rename"
    files, root = locate(scratch, stores)
    if isinstance(files, (pafs.LocalFileSystem, pafs.PyFileSystem)):  # nothing is renamed in object stores
        files.move(f"{root}/created", f"{root}/written")
    yield "delete"
    folder.delete("written")
    _require(not folder.exists("written"), "a deleted file is still there")


def _try_delta(table: str, stores: Stores) -> Iterator[str]:
    options = delta_options(table, stores)
    rows = pa.table({"number": [1]})
    yield "write a table"
    write_deltalake(table, rows, storage_options=options)
    write_deltalake(table, rows, mode="append", storage_options=options)
    yield "read a table"
    read = DeltaTable(table, storage_options=options)
    _require((read.version(), read.to_pyarrow_table().num_rows) == (1, 2), "a table lacks what was written")


def _try_hadoop(spark: "SparkSession", path: str, scratch: str) -> Iterator[str]:
    jvm: Any = spark.sparkContext._jvm
    make_path = jvm.org.apache.hadoop.fs.Path
    conf = spark.sparkContext._jsc.hadoopConfiguration()
    yield LOOK
    # A client of its own, which gives up early.
    hurried = jvm.org.apache.hadoop.conf.Configuration(conf)
    for name, value in hadoop_conf(replace(current(), patience_seconds=0)).items():
        hurried.set(name, value)
    root, folder = make_path(hadoop_path(path)), make_path(hadoop_path(scratch))
    files = jvm.org.apache.hadoop.fs.FileSystem.newInstance(root.toUri(), hurried)
    try:
        files.exists(root)
        yield "write"
        written, moved = make_path(folder, "written"), make_path(folder, "moved")
        stream = files.create(written, False)
        stream.write(bytearray(CONTENT))
        stream.close()
        yield "read"
        opened = files.open(written)
        _require(opened.read() == CONTENT[0], "a file has other content than was written")
        opened.close()
        yield "list"
        _require(len(files.listStatus(folder)) == 1, "a new file is missing in the list of its folder")
        yield "rename"
        _require(files.rename(written, moved), "a file could not be renamed")
        yield "delete"
        _require(files.delete(folder, True), "a folder could not be deleted")
    finally:
        files.close()


def hadoop_conf(stores: Stores) -> dict[str, str]:
    """Settings of a Hadoop configuration that say how long its clients wait."""
    patience = ("attempts", "retry", "connection", "ipc")
    conf = {name.removeprefix("spark.hadoop."): value for name, value in spark_conf(stores).items()}
    return {name: value for name, value in conf.items() if any(word in name for word in patience)}


def hadoop_path(path: str) -> str:
    """The path as Hadoop's client must be given it."""
    if not is_remote(path):
        return f"file://{path}"
    return re.sub("^s3n?:", "s3a:", path)


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise OSError(problem)


def _try_clients(clients: dict[str, _Steps], path: str) -> Iterator[Finding]:
    """One finding for each client, one after the other, until one does not even reach the store: delta-rs
    keeps Python's lock while it waits for a name node that hangs, so it comes after the clients that do not.
    """
    for client, steps in clients.items():
        step, problem = _run_steps(steps)
        fix = find_fix(problem, path) if problem else ""
        yield Finding(client=client, host=platform.node(), step=step, problem=problem, fix=fix)
        if step == LOOK:
            return


def _run_steps(steps: _Steps) -> tuple[str, str]:
    """The step that failed and why; both empty if none did. In a thread, so that a client that hangs is left
    behind."""
    reached, problems = [""], list[str]()

    def work() -> None:
        try:
            reached.extend(steps())
        except Exception as error:  # of three libraries and a JVM
            problems.append(describe_error(error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(LIMIT_SECONDS)
    if thread.is_alive():
        problems.append(f"no answer within {LIMIT_SECONDS:.0f} s")
    return (reached[-1], problems[0]) if problems else ("", "")


def describe_error(error: Exception) -> str:
    """The cause in one line: the code and message of S3, or the message of a Java exception."""
    text = str(getattr(error, "java_exception", None) or error) or type(error).__name__
    if answer := re.search(r"<Code>(.*?)</Code>.*?<Message>(.*?)</Message>", text, re.DOTALL):
        return f"{answer[1]}: {answer[2]}"
    # delta-rs paints its message, obstore adds its own data structures.
    text = re.sub("\x1b\\[[0-9;]*m", "", text).partition("Debug source")[0]
    return without_credentials(" ".join(text.split()))[:300]


_FIXES = (
    (
        r"S3AFileSystem not found|No FileSystem for scheme|NoClassDefFoundError",
        (
            "Spark lacks the jars of this storage; run: make jars, or start with --packages "
            "org.apache.hadoop:hadoop-aws of the version of Spark's Hadoop"
        ),
    ),
    (
        r"NoSuchBucket|[Bb]ucket.{0,80}(not exist|not found)|UnknownStoreException",
        "create the bucket, or correct root",
    ),
    (
        (
            r"\b40[13]\b|[Ff]orbidden|AccessDenied|ACCESS_DENIED|InvalidAccessKeyId|Signature|[Cc]redential"
            r"|AccessControl|Permission denied"
        ),
        "correct the keys (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or storage.s3) and what they may do",
    ),
    (
        (
            r"refused|timed? ?out|no answer|No route|lookup|resolve|UnknownHost|unreachable|disconnected"
            r"|NETWORK_CONNECTION|error sending request|ConnectException"
        ),
        (
            "start the storage, or correct its address (root, storage.s3.endpoint, storage.hdfs.conf_dir); "
            "perhaps a firewall is between"
        ),
    ),
)


def find_fix(problem: str, path: str) -> str:
    """What a person can do about a problem of the storage at `path`."""
    for pattern, fix in _FIXES:
        if re.search(pattern, problem):
            return fix
    return f"see section storage of the configuration; the address is {without_credentials(path)}"
