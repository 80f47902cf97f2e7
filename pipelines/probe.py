"""What one executor's Python is and has: the part of `pipelines/executors.py` that runs on the executors.

It uses the standard library only and is sent by value: an executor may lack every package, ours included.
Heavy libraries are imported in a process of their own, because a broken one ends the process that imports it.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import pickle
import platform
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

LIBRARIES = """
import json, sys
found = {}
try:
    import torch
    found["torch"] = torch.__version__
    found["gpus"] = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    found["nccl"] = ".".join(map(str, torch.cuda.nccl.version())) if found["gpus"] else ""
    import horovod.torch as hvd
    found["horovod"] = [name for name in ("gloo", "nccl", "mpi") if getattr(hvd, name + "_built")()]
except Exception as error:
    found["error"] = f"{type(error).__name__}: {error}"
try:
    from pipelines.finetune.launch.addresses import find_address, find_interface
    found["address"] = find_address(sys.argv[1], sys.argv[2].split(","))
    found["interface"] = find_interface(found["address"])
except Exception as error:
    found["address_error"] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""


def read_versions(packages: Sequence[str]) -> dict[str, str | None]:
    """Package -> version that Python would import; None if it is not installed."""
    versions: dict[str, str | None] = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def read_code_digest() -> str:
    """sha256 of our own code as this Python would import it, 12 digits; empty if it would not find it."""
    digest = hashlib.sha256()
    for package in ("jobs", "pipelines"):
        found = importlib.util.find_spec(package)
        if found is None or not found.submodule_search_locations:
            return ""
        folder = Path(next(iter(found.submodule_search_locations)))
        for file in sorted(folder.rglob("*.py")):
            digest.update(f"{package}/{file.relative_to(folder).as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def find_executor() -> tuple[str, str]:
    """(id, host name) of the executor that started this Python, as Spark names them on its command line.

    Outside an executor, as with local masters: ("driver", this machine's name).
    """
    pid = os.getpid()
    for _ in range(4):  # the worker, Spark's daemon, the starter of an archive's Python, the JVM
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            break
        if "--executor-id" in words and "--hostname" in words:
            return words[words.index("--executor-id") + 1], words[words.index("--hostname") + 1]
    return "driver", socket.gethostname()


def read_memory_limit() -> int | None:
    """Bytes that this process and its JVM may use: the container's limit or the machine's memory."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(file).read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    own = resource.getrlimit(resource.RLIMIT_AS)[0]  # spark.executor.pyspark.memory
    if own != resource.RLIM_INFINITY:
        limits.append(own)
    return min(limits)


def measure_free_disk(local_dirs: str) -> dict[str, int]:
    """Free bytes in each of Spark's local folders; `local_dirs` holds where no variable names them."""
    named = os.environ.get("SPARK_LOCAL_DIRS") or os.environ.get("LOCAL_DIRS") or local_dirs
    free = {}
    for folder in filter(None, named.split(",")):
        place = Path(folder)
        if place.name.startswith("blockmgr-"):  # Spark's own folder below the one that was configured
            place = place.parent
        folder = str(place)
        while not place.exists():
            place = place.parent
        free[folder] = shutil.disk_usage(place).free
    return free


def look(
    packages: Sequence[str], local_dirs: str, hold_seconds: float, gpus: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """One executor's Python, packages, disk, memory and clock. Takes `hold_seconds`, so that no executor runs
    two of these tasks while another one runs none. gpus: what Spark gave to the task, by resource."""
    began_at = time.time()
    executor, host = find_executor()
    found = {
        "executor": executor,
        "host": host,
        "python": platform.python_version(),
        "program": sys.executable,
        "packages": read_versions(packages),
        "code": read_code_digest(),
        "free_bytes": measure_free_disk(local_dirs),
        "memory_bytes": read_memory_limit(),
        "task_gpus": list(gpus.get("gpu", ())),
        "began_at": began_at,
    }
    time.sleep(max(0.0, hold_seconds - (time.time() - began_at)))
    return {**found, "ended_at": time.time()}


def look_deeper(
    token: str,
    peers: Sequence[str],
    storage: bytes | None,
    hold_seconds: float,
    _: Mapping[str, Sequence[str]],
) -> dict[str, Any] | None:
    """What the libraries on one executor say: torch, GPUs, how Horovod was built, the address of its ranks.

    token: names this examination. Only one task of it examines an executor; the others wait, and give None.
    storage: a pickled function that tries the storage and returns dataclasses; pickled, because an executor
    without our modules could not even read the task.
    """
    executor, host = find_executor()
    claim = Path(tempfile.gettempdir()) / f"distributary-{token}-{executor}"
    try:
        os.close(os.open(claim, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        time.sleep(hold_seconds)
        return None
    try:
        command = [sys.executable, "-c", LIBRARIES, host, ",".join(peers)]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=300)
        lines = answer.stdout.splitlines()
        if answer.returncode == 0 and lines:
            found = json.loads(lines[-1])
        else:
            last = (answer.stderr.strip().splitlines() or ["no message"])[-1]
            found = {"error": f"importing torch and Horovod ended with status {answer.returncode}: {last}"}
    except subprocess.TimeoutExpired:
        found = {"error": "importing torch and Horovod took more than 300 s"}
    finally:
        claim.unlink()
    if storage is not None:
        try:
            # Our driver wrote these bytes, and Spark brought them inside a task, which is itself a pickle.
            check = pickle.loads(storage)  # noqa: S301
            found["storage"] = [asdict(finding) for finding in check()]
        except Exception as error:  # of any client library
            found["storage_error"] = f"{type(error).__name__}: {error}"
    return {"executor": executor, "host": host, **found}
