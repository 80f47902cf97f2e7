"""Horovod 0.28.1 from its source archive, for exactly one torch, Python, platform and GPU; built once, kept in the cache.

The archive is of 2023 and asks for C++14 where torch's headers need C++20: a wrapper makes the last -std win. A build that was
cut off goes on where it stopped, because the unpacked source stays until the wheel is kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import stat
import subprocess
import tarfile
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Dict, List, NamedTuple

from tools.cache import cache_folder, lock
from tools.packages import installed, site_packages, venv_python
from tools.progress import SetupError, run, say

REQUIREMENT = Path(__file__).with_name("horovod.txt")
JOB_GB = 2.0
"""Memory of one compiler process on torch's headers."""
PROBE = """
import importlib.metadata as m, json, platform, sys
import torch
print(json.dumps({"torch": torch.__version__, "cuda": (torch.version.cuda or "") if torch.cuda.is_available() else "",
                  "python": f"cp{sys.version_info[0]}{sys.version_info[1]}"}))
"""
CHECK = """
import json, pathlib, sys
import torch, horovod, horovod.torch as hvd
built = json.loads((pathlib.Path(horovod.__file__).parent / "metadata.json").read_text())["pytorch"]
if built != torch.__version__: sys.exit(f"Horovod was built for torch {built}, installed is {torch.__version__}")
if not hvd.gloo_built(): sys.exit("Horovod was built without Gloo")
hvd.init(); hvd.shutdown()
"""


class Target(NamedTuple):
    """What a wheel is good for, and nothing else."""

    horovod: str
    torch: str
    python: str
    platform: str
    gpu: str
    """CUDA version the collectives are built for; empty = CPU (Gloo)."""

    def key(self) -> str:
        """Folder name: readable parts, and a hash that keeps apart what the parts do not."""
        digest = hashlib.sha256(json.dumps(self._asdict(), sort_keys=True).encode()).hexdigest()[:12]
        name = f"horovod-{self.horovod}-torch-{self.torch}-{self.python}-{f'cuda-{self.gpu}' if self.gpu else 'cpu'}"
        return f"{name}-{digest}".replace("/", "_")


def pinned() -> str:
    """The requirement line with its checksum."""
    lines = REQUIREMENT.read_text(encoding="ascii").splitlines()
    return next(line for line in lines if line and not line.startswith("#"))


def problems(checkout: Path) -> List[str]:
    """What is wrong with the Horovod in .venv, by what pip and its build wrote down; empty = the pinned one, for that torch."""
    wanted, there = pinned().split()[0].split("==")[1], installed(checkout)
    if there.get("horovod") != {wanted}:
        return [f"horovod {' and '.join(sorted(there.get('horovod', {'missing'})))}, pinned is {wanted}"]
    try:
        built = str(
            json.loads((site_packages(checkout) / "horovod" / "metadata.json").read_text(encoding="utf-8"))[
                "pytorch"
            ]
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"horovod's record of its build is unreadable: {error}"]
    # torch 2.13.0+cu130 may call itself 2.13.0 in the name of its folder.
    fits = built.split("+")[0] in {version.split("+")[0] for version in there.get("torch", ())}
    return [] if fits else [f"horovod was built for torch {built}"]


def find_target(checkout: Path) -> Target:
    """Ask the environment what to build for; a GPU counts if torch sees one and CUDA's compiler is there."""
    answer = subprocess.run([str(venv_python(checkout)), "-c", PROBE], capture_output=True, text=True)
    if answer.returncode:
        raise SetupError(
            f"torch does not import in .venv; fix: rm -r .venv, then make setup\n{answer.stderr[-2000:]}"
        )
    found = json.loads(answer.stdout.splitlines()[-1])
    gpu = found["cuda"] if found["cuda"] and shutil.which("nvcc") else ""
    system = f"{platform.system().lower()}-{platform.machine()}-{'-'.join(platform.libc_ver())}"
    return Target(pinned().split()[0].split("==")[1], found["torch"], found["python"], system, gpu)


def kept_wheel(target: Target) -> Path | None:
    """The wheel of this target, if the cache has it."""
    return next((cache_folder() / "wheels" / target.key()).glob("horovod-*.whl"), None)


def num_jobs() -> int:
    """Compilers at a time: processors, bounded by memory. DISTRIBUTARY_BUILD_JOBS overrides."""
    named = os.environ.get("DISTRIBUTARY_BUILD_JOBS")
    if named:
        return max(1, int(named))
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return max(1, min(len(os.sched_getaffinity(0)), int(memory_gb / JOB_GB)))


def build_folder(target: Target) -> Path:
    """Where the source is unpacked and compiled; the same at each call, so that a build goes on.

    Horovod's CMake files take the path for a regular expression: with a + in it (torch 2.13.0+cu130, say) the wheel comes out
    without its library. So the name has none, and a cache folder with such characters is not built in.
    """
    digest = target.key().rpartition("-")[2]
    if set(str(cache_folder())) & set("+*?()[]{}^$|\\ "):
        return Path(tempfile.gettempdir()) / f"distributary-horovod-{os.getuid()}-{digest}"
    return cache_folder() / "build" / f"horovod-{digest}"


def make_private(folder: Path) -> None:
    """Make the folder for this user alone, or keep the one of an earlier build: the source in it is compiled and run.

    Raises SetupError where a link or somebody else's folder is in its place; one that others could write to is emptied.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        what = f"it is {stat.filemode(found.st_mode)}, of user {found.st_uid}; fix: remove it"
        raise SetupError(
            f"{folder} must be a folder of user {os.getuid()}: {what}, or name a cache folder of plain letters"
        )
    if found.st_mode & 0o022:
        shutil.rmtree(folder)
        folder.mkdir(mode=0o700)


def build_environment(target: Target, folder: Path) -> Dict[str, str]:
    """Variables of the build; the compiler wrapper is written into `folder`."""
    wrapper = folder / "cxx"
    wrapper.write_text(
        f'#!/bin/sh\nexec {os.environ.get("CXX") or "g++"} "$@" -std=c++20\n', encoding="utf-8"
    )
    wrapper.chmod(0o755)
    env = {
        **os.environ,
        "CXX": str(wrapper),
        "MAKEFLAGS": f"-j{num_jobs()}",
        "CMAKE_POLICY_VERSION_MINIMUM": "3.5",  # CMake 4 refuses what the archive declares
        "HOROVOD_WITH_PYTORCH": "1",
        "HOROVOD_WITHOUT_TENSORFLOW": "1",
        "HOROVOD_WITHOUT_MXNET": "1",
        "HOROVOD_WITHOUT_MPI": "1",
        "HOROVOD_WITH_GLOO": "1",
    }
    for name in ("MAKELEVEL", "MFLAGS", "MAKEOVERRIDES"):  # we may run under make ourselves
        env.pop(name, None)
    if target.gpu:
        env["HOROVOD_GPU_OPERATIONS"] = "NCCL"
    else:
        env.pop("HOROVOD_GPU_OPERATIONS", None)
    return env


def unpack_source(checkout: Path, folder: Path, *, log: Path) -> Path:
    """The source tree, from the archive with the pinned checksum; one that is there already is built on."""
    name = "-".join(pinned().split()[0].split("=="))
    source = folder / name
    if source.is_dir():
        return source
    requirement = folder / "horovod.txt"
    requirement.write_text(pinned() + "\n", encoding="ascii")
    pip = [
        str(venv_python(checkout)),
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--no-build-isolation",
        "--no-binary",
        "horovod",
    ]
    run(
        [*pip, "--require-hashes", "--requirement", str(requirement), "--dest", str(folder)],
        doing="fetching Horovod's source",
        log=log,
    )
    fresh = folder / "unpacking"
    shutil.rmtree(fresh, ignore_errors=True)
    with tarfile.open(folder / f"{name}.tar.gz") as archive:
        # Its checksum is pinned, so its members are known; the filter came with 3.11.4.
        if hasattr(tarfile, "data_filter"):
            archive.extraction_filter = tarfile.data_filter
        archive.extractall(fresh)  # noqa: S202
    (fresh / name).rename(source)
    return source


def build_wheel(checkout: Path, target: Target, *, log: Path) -> Path:
    """Build the wheel and keep it; another set-up of the same user waits and takes it."""
    with lock(target.key()):
        kept = kept_wheel(target)
        if kept:
            return kept
        folder = build_folder(target)
        make_private(folder)
        fresh = folder / "dist"
        shutil.rmtree(fresh, ignore_errors=True)
        source = unpack_source(checkout, folder, log=log)
        # -v: pip passes make's "[ 45%]" on to the log, which the heartbeat shows. No cache: pip's own knows nothing of torch.
        pip = [
            str(venv_python(checkout)),
            "-m",
            "pip",
            "-v",
            "wheel",
            "--no-cache-dir",
            "--no-build-isolation",
            "--no-deps",
        ]
        env = build_environment(target, folder)
        try:
            run([*pip, "--wheel-dir", str(fresh), str(source)], doing="building Horovod", log=log, env=env)
        except SetupError:
            shutil.rmtree(source, ignore_errors=True)  # what failed is not built upon; what was cut off is
            raise
        refuse_incomplete(fresh)
        (fresh / "target.json").write_text(json.dumps(target._asdict(), indent=2) + "\n", encoding="utf-8")
        place = cache_folder() / "wheels" / target.key()
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(place, ignore_errors=True)
        complete = place.with_name(f"{place.name}.part")
        shutil.rmtree(complete, ignore_errors=True)
        shutil.move(str(fresh), str(complete))
        complete.rename(place)  # all of it or nothing
        shutil.rmtree(folder)
        return next(place.glob("horovod-*.whl"))


def refuse_incomplete(folder: Path) -> None:
    """A build that ends well may still lack the library: such a wheel is not kept. Raises SetupError."""
    wheel = next(folder.glob("horovod-*.whl"), None)
    names = zipfile.ZipFile(wheel).namelist() if wheel else []
    if not any(name.startswith("horovod/torch/mpi_lib_v2") for name in names):
        raise SetupError(
            f"Horovod's build in {folder.parent} gave a wheel without horovod/torch/mpi_lib_v2; it is not kept"
        )


def wheel(checkout: Path, *, log: Path) -> Path:
    """The wheel for this environment; where the GPU build fails, one that reduces on the CPU, and a line that says so."""
    target = find_target(checkout)
    kept = kept_wheel(target)
    if kept:
        return kept
    say(
        f"no wheel for torch {target.torch}, {target.python} in the cache: building, about 3 minutes on 2 idle cores"
    )
    try:
        return build_wheel(checkout, target, log=log)
    except SetupError as error:
        if not target.gpu:
            raise
        say(
            f"warning: Horovod with NCCL does not build; gradients are averaged on the CPU instead (Gloo)\n{error}"
        )
        return build_wheel(checkout, target._replace(gpu=""), log=log)


def check(checkout: Path, wheel: Path, *, log: Path) -> None:
    """Import what was installed, compare its torch with ours and start a world of one. Raises SetupError."""
    try:
        run([str(venv_python(checkout)), "-c", CHECK], doing="checking Horovod", log=log)
    except SetupError as error:
        raise SetupError(f"{error}\n  fix: rm -r {wheel.parent}, then make setup") from error
