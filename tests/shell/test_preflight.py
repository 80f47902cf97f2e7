"""What is checked before a long work: storage, tracking server, slots, packages, other runs."""

import json
import socket
import threading
import time
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace

import pytest

from jobs.run import STAGES, run
from jobs.shell import settings as configuration
from jobs.shell.exits import Exit, PreflightError
from jobs.shell.preflight import Preflight, require_packages, require_spark_master
from pipelines.lease import LEASE, LeaseHeldError
from pipelines.registry import server
from pipelines.registry.server import require_server
from pipelines.storage import Folder
from tests.conftest import flow_overrides
from tests.shell.test_command import invoke

ELSEWHERE = {"token": "other", "process": "another-boot/pid:[1] 7 1", "host": "node-7", "pid": 7}


def work(**given):
    progress = SimpleNamespace(phase=lambda text: None, print=lambda text: None)
    return SimpleNamespace(**{"stage": "corpus", "needs_spark": False, "progress": progress, **given})


@contextmanager
def answering(reply):
    """A server on this machine that sends `reply` to every caller; None = it never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        callers = []

        def serve():
            while True:
                try:
                    caller, _ = listening.accept()
                except OSError:
                    return
                callers.append(caller)
                if reply is not None:
                    caller.recv(4096)
                    caller.sendall(reply)
                    caller.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
        for caller in callers:
            caller.close()


def status(line):
    return f"HTTP/1.1 {line}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()


@pytest.mark.parametrize("line", ["200 OK", "401 Unauthorized", "404 Not Found"])
def test_any_answer_of_a_server_will_do(line):
    with answering(status(line)) as address:
        require_server(address)


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (None, "timed out"),
        (status("503 Unavailable"), "status 503"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP"),
    ],
)
def test_a_server_that_does_not_answer_is_named(monkeypatch, reply, why):
    monkeypatch.setattr(server, "CONNECT_SECONDS", 0.3)
    monkeypatch.setattr(server, "PAUSE_SECONDS", 0.0)
    with (
        answering(reply) as address,
        pytest.raises(ConnectionError, match=rf"{address} .*{why}.*tracking\.uri"),
    ):
        require_server(address)


def test_an_address_without_a_number_for_its_port_is_refused():
    with pytest.raises(ValueError, match=r"tracking\.uri is no address .*'port'; write http://HOST:PORT"):
        require_server("http://127.0.0.1:port")


def test_a_run_without_its_tracking_server_ends_early(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    began = time.monotonic()
    words = [*flow_overrides(tmp_path), f"tracking.uri=http://127.0.0.1:{port}"]
    refused = invoke(run, *words)
    assert refused.exit_code == Exit.RETRY
    assert f"the MLflow server at http://127.0.0.1:{port} does not answer" in refused.stderr
    assert time.monotonic() - began < 15
    assert not (tmp_path / "lake").exists()


def invoke_on_s3(endpoint, folder, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "wrong")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    words = [*flow_overrides(folder), "root=s3://bucket/lake", f"storage.s3.endpoint={endpoint}"]
    began = time.monotonic()
    refused = invoke(run, *words)
    assert time.monotonic() - began < 15
    return refused


def test_a_run_without_its_storage_ends_early(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
    refused = invoke_on_s3(address, tmp_path, monkeypatch)
    assert refused.exit_code == Exit.RETRY, refused.stderr
    assert "storage s3://bucket/lake cannot be used" in refused.stderr
    assert "start the storage, or correct its address" in refused.stderr


def test_a_run_with_wrong_keys_ends_early(tmp_path, monkeypatch):
    """A server that answers as S3 does to a key that it does not know."""
    content = "<Error><Code>InvalidAccessKeyId</Code><Message>The key does not exist</Message></Error>"
    head = f"Content-Type: application/xml\r\nContent-Length: {len(content)}\r\nConnection: close"
    reply = f"HTTP/1.1 403 Forbidden\r\n{head}\r\n\r\n{content}".encode()
    with answering(reply) as address:
        refused = invoke_on_s3(address, tmp_path, monkeypatch)
    assert refused.exit_code == Exit.CONFIGURATION, refused.stderr
    assert "storage s3://bucket/lake cannot be used" in refused.stderr
    assert "correct the keys" in refused.stderr
    assert "wrong" not in refused.stderr.replace("wrong keys", "")


def test_a_standalone_master_must_answer():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        require_spark_master(f"spark://127.0.0.1:9,127.0.0.1:{port}")
    with pytest.raises(
        PreflightError, match=rf"no Spark master answers at spark://127\.0\.0\.1:{port}.*start it"
    ):
        require_spark_master(f"spark://127.0.0.1:{port}")
    for other in ("yarn", "local[2,4]", "k8s://https://host:6443", ""):
        require_spark_master(other)


def test_too_few_slots_stop_a_run_before_corpus(spark, tmp_path):
    (tmp_path / "raw").mkdir()
    for name in ("train", "test"):
        (tmp_path / "raw" / f"{name}.csv").write_text("text,category\nhello,a\n")
    refused = invoke(run, *flow_overrides(tmp_path), "finetune.num_ranks=3", "finetune.global_batch=30")
    assert refused.exit_code == Exit.CONFIGURATION
    assert "finetune.num_ranks is 3, but local[2,4] runs 2 tasks at once" in refused.stderr
    assert not (tmp_path / "lake" / "documents").exists()


def test_only_the_first_stage_with_work_is_checked(tmp_path):
    settings = configuration.load(overrides=flow_overrides(tmp_path))
    configs = {name: settings.section(name, stage.Config) for name, stage in STAGES.items()}
    with ExitStack() as stack:
        check = Preflight(configs, settings.root, stack)
        check(work())
        assert Folder(f"{settings.root}/run").names() == [LEASE]
        Folder(f"{settings.root}/run").delete(LEASE)
        check(work(stage="dataset"))
        assert Folder(f"{settings.root}/run").names() == []


@pytest.mark.parametrize(
    ("setting", "package", "needed"),
    [
        ("model.adapter.kind=null", "peft", False),
        ("model.adapter.kind=lora", "peft", True),
        ("system_metrics=false", "psutil", False),
        ("system_metrics=true", "psutil", True),
    ],
)
def test_executors_need_what_the_ranks_use(tmp_path, setting, package, needed):
    settings = configuration.load(overrides=[*flow_overrides(tmp_path), f"finetune.{setting}"])
    ranks = settings.section("finetune", STAGES["finetune"].Config)
    with ExitStack() as stack:
        packages = Preflight({"finetune": ranks}, None, stack)._list_packages(ranks)
    assert {"torch", "deltalake"} <= set(packages)
    assert (package in packages) == needed


def test_a_second_run_is_refused_while_one_is_at_work(tmp_path):
    root = str(tmp_path)
    with ExitStack() as first, ExitStack() as second:
        Preflight({}, root, first)(work())
        with pytest.raises(LeaseHeldError, match="is in use by process"):
            Preflight({}, root, second)(work())
    with ExitStack() as third:
        Preflight({}, root, third)(work())


def write_other(folder, *, age_seconds):
    folder.write(LEASE, json.dumps({**ELSEWHERE, "renewed_at": time.time() - age_seconds}).encode())


def test_a_run_takes_over_from_a_dead_one_elsewhere(tmp_path):
    """The other run stops renewing: it is waited for until its lease is a minute old."""
    write_other(Folder(str(tmp_path / "run")), age_seconds=58)
    said = []
    progress = SimpleNamespace(phase=said.append)
    with ExitStack() as stack:
        Preflight({}, str(tmp_path), stack)(work(progress=progress))
    assert len(said) == 1
    assert "process 7 on node-7" in said[0]


def test_a_run_elsewhere_that_renews_is_alive(tmp_path):
    folder = Folder(str(tmp_path / "run"))
    write_other(folder, age_seconds=20)
    renewal = threading.Timer(1.5, write_other, [folder], {"age_seconds": 0})
    renewal.start()
    with ExitStack() as stack, pytest.raises(LeaseHeldError, match="process 7 on node-7"):
        Preflight({}, str(tmp_path), stack)(work())
    renewal.join()


def report(host, versions, **facts):
    found = {
        "packages": versions, "code": "c", "free_bytes": {}, "clock_seconds": 0.0, **facts,
    }  # fmt: skip
    return SimpleNamespace(host=host, facts=found, problems=[])


def test_executors_with_other_packages_are_named(monkeypatch):
    import pipelines.executors
    from pipelines.probe import read_versions

    here = read_versions(["torch", "numpy"])
    reports = [report("node-1", here)]
    monkeypatch.setattr(pipelines.executors, "check_executors", lambda spark: reports)
    warned = []
    require_packages(None, ["torch", "numpy"], warned.append)
    reports.append(report("node-2", {**here, "torch": None}))
    reports.append(report("node-3", {**here, "numpy": "1.0"}))
    reports.append(report("node-4", here, code=""))
    with pytest.raises(ImportError) as caught:
        require_packages(None, ["torch", "numpy"], warned.append)
    assert f"node-2: torch is missing (the driver has {here['torch']})" in str(caught.value)
    assert f"node-3: numpy is 1.0 (the driver has {here['numpy']})" in str(caught.value)
    assert "node-4: distributary's modules are missing" in str(caught.value)
    assert "node-1" not in str(caught.value)
    assert warned == []


def test_executors_that_were_not_examined_have_no_fault(monkeypatch):
    import pipelines.executors
    from pipelines.executors import ExecutorReport, _blame

    message = "Lost task 0.3 in stage 0.0 (TID 3) (node-9 executor 9): OSError: no Python"
    reports = _blame(RuntimeError(message), {str(number): f"node-{number}" for number in range(10)})
    assert [type(report) for report in reports] == [ExecutorReport] * 10
    monkeypatch.setattr(pipelines.executors, "check_executors", lambda spark: reports)
    with pytest.raises(
        ImportError, match="stages: node-9: its Python cannot run tasks: OSError: no Python; r"
    ) as caught:
        require_packages(None, ["numpy"], print)
    assert "node-1" not in str(caught.value)
    assert " more" not in str(caught.value)


def test_many_faulty_executors_are_counted(monkeypatch):
    import pipelines.executors

    reports = [report(f"node-{number // 2}", {"numpy": None}) for number in range(40)]
    monkeypatch.setattr(pipelines.executors, "check_executors", lambda spark: reports)
    with pytest.raises(ImportError) as caught:
        require_packages(None, ["numpy"], print)
    # Two executors a host: 20 different faults, of which 8 are shown.
    assert [f"node-{number}: " in str(caught.value) for number in (0, 7, 8)] == [True, True, False]
    assert str(caught.value).endswith("; and 12 more")


def test_a_full_disk_of_an_executor_is_a_warning(monkeypatch):
    import pipelines.executors
    from pipelines.probe import read_versions

    here = read_versions(["numpy"])
    full = report("node-1", here, free_bytes={"/scratch": 1e9})
    monkeypatch.setattr(pipelines.executors, "check_executors", lambda spark: [full])
    warned = []
    require_packages(None, ["numpy"], warned.append)
    assert len(warned) == 1
    assert warned[0].startswith("node-1: /scratch has 1.0 GB free")
