"""Which Horovod the environment needs, which one it has, and how to check it after the installation."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import List, NamedTuple

from pipelines.machine import cache_folder, list_packages
from tools.horovod_source import corrections_digest
from tools.packages import site_packages, venv_python
from tools.progress import SetupError, run_command

REQUIREMENT = Path(__file__).with_name("horovod.txt")
PROBE = """
import importlib.metadata as m, json, platform, sys
import torch
cuda, sees_gpu = torch.version.cuda or "", torch.cuda.is_available()
python = f"cp{sys.version_info[0]}{sys.version_info[1]}"
print(json.dumps({"torch": torch.__version__, "cuda": cuda, "sees_gpu": sees_gpu, "python": python}))
"""
CHECK = """
import json, pathlib, sys
import torch, horovod, horovod.torch as hvd
built = json.loads((pathlib.Path(horovod.__file__).parent / "metadata.json").read_text())["pytorch"]
if built != torch.__version__:
    sys.exit(f"Horovod was built for torch {built}, installed is {torch.__version__}")
if not hvd.gloo_built(): sys.exit("Horovod was built without Gloo")
hvd.init(); hvd.shutdown()
"""


class Target(NamedTuple):
    """What a Horovod wheel is built for. It works with nothing else."""

    horovod: str
    torch: str
    python: str
    platform: str
    gpu: str
    """CUDA version that the collectives are built for; empty = CPU (Gloo)."""

    def key(self) -> str:
        """Folder name: the fields that a person reads, and a hash of all fields and of our corrections."""
        parts = {**self._asdict(), "source": corrections_digest()}
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]
        device = f"cuda-{self.gpu}" if self.gpu else "cpu"
        name = f"horovod-{self.horovod}-torch-{self.torch}-{self.python}-{device}"
        return f"{name}-{digest}".replace("/", "_")


def read_requirement() -> str:
    """The line of horovod.txt: version and checksum of the source archive."""
    lines = REQUIREMENT.read_text(encoding="ascii").splitlines()
    return next(line for line in lines if line and not line.startswith("#"))


def pinned_version() -> str:
    """The version in horovod.txt."""
    return read_requirement().split()[0].split("==")[1]


def find_horovod_problems(checkout: Path) -> List[str]:
    """One line if .venv lacks the pinned Horovod or has one that was built for another torch; nothing is
    imported."""
    expected, installed = pinned_version(), list_packages(site_packages(checkout))
    if installed.get("horovod") != {expected}:
        found = " and ".join(sorted(installed.get("horovod", {"missing"})))
        return [f"horovod {found}, pinned is {expected}"]
    record = site_packages(checkout) / "horovod" / "metadata.json"
    try:
        built_for = str(json.loads(record.read_text(encoding="utf-8"))["pytorch"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"horovod's build record {record} cannot be read: {error}"]
    if chosen_gpu() == "nccl" and not has_nccl(site_packages(checkout) / "horovod"):
        return ["horovod was built without NCCL, and GPU=nccl asks for it"]
    # The folder of torch 2.13.0+cu130 may be named 2.13.0.
    installed_torch = {version.split("+")[0] for version in installed.get("torch", ())}
    return [] if built_for.split("+")[0] in installed_torch else [f"horovod was built for torch {built_for}"]


def chosen_gpu() -> str:
    """DISTRIBUTARY_GPU (`make setup GPU=...`): nccl, cpu, or auto, which is the default."""
    chosen = os.environ.get("DISTRIBUTARY_GPU") or "auto"
    if chosen not in ("auto", "nccl", "cpu"):
        raise SetupError(f"DISTRIBUTARY_GPU (make setup GPU=...) must be nccl, cpu or auto, got {chosen}")
    return chosen


def choose_cuda(chosen: str, *, cuda: str, sees_gpu: bool, has_compiler: bool) -> str:
    """CUDA version to build the collectives for; empty = CPU (Gloo).

    auto: for the GPU if torch sees one and CUDA's compiler is there. nccl: for the GPU also on a host without
    one, such as CI or an edge node; raises SetupError that names what is missing, and never builds for the
    CPU without saying so.
    """
    if chosen == "cpu" or (chosen == "auto" and not (sees_gpu and has_compiler)):
        return ""
    missing = (
        [] if cuda else ["torch built for CUDA (PyPI's wheel for Linux is; the index of +cpu wheels is not)"]
    )
    missing += [] if has_compiler else ["CUDA's compiler: nvcc on PATH (the CUDA toolkit, no GPU or driver)"]
    if chosen == "nccl" and missing:
        raise SetupError(f"GPU=nccl needs {' and '.join(missing)}; install it, or leave GPU away")
    return cuda


def has_nccl(horovod: Path) -> bool:
    """Whether the package in the folder `horovod` can exchange tensors of GPUs, read from its library.

    Nothing is imported: an NCCL build does not load where CUDA's libraries are missing.
    """
    return any(b"ncclCommInitRank" in file.read_bytes() for file in horovod.glob("torch/mpi_lib_v2*.so"))


def find_target(checkout: Path) -> Target:
    """Ask the environment what to build for. Raises SetupError if GPU=nccl cannot be had."""
    answer = subprocess.run([str(venv_python(checkout)), "-c", PROBE], capture_output=True, text=True)
    if answer.returncode:
        raise SetupError(
            f"torch cannot be imported in .venv; fix: rm -r .venv, then make setup\n{answer.stderr[-2000:]}"
        )
    found = json.loads(answer.stdout.splitlines()[-1])
    has_compiler = shutil.which("nvcc") is not None
    gpu = choose_cuda(chosen_gpu(), cuda=found["cuda"], sees_gpu=found["sees_gpu"], has_compiler=has_compiler)
    system = f"{platform.system().lower()}-{platform.machine()}-{'-'.join(platform.libc_ver())}"
    return Target(pinned_version(), found["torch"], found["python"], system, gpu)


def wheel_folder(target: Target) -> Path:
    """Where the cache keeps the wheel of this target."""
    return cache_folder() / "wheels" / target.key()


def find_kept_wheel(target: Target) -> Path | None:
    """The wheel of this target in the cache; None if it was not built yet."""
    return next(wheel_folder(target).glob("horovod-*.whl"), None)


def check_horovod(checkout: Path, wheel: Path, *, log: Path) -> None:
    """Import the installed Horovod, compare its torch with .venv's, and start a world of one rank.

    Raises SetupError.
    """
    try:
        run_command([str(venv_python(checkout)), "-c", CHECK], doing="checking Horovod", log=log)
    except SetupError as error:
        raise SetupError(f"{error}\n  fix: rm -r {wheel.parent}, then make setup") from error
