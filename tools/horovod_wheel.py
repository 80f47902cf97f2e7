"""Build Horovod 0.28.1 from its source archive, once for each Target; the cache keeps the wheel.

The archive is from 2023 and compiles as C++14, but torch's headers need C++20: a compiler wrapper adds
-std=c++20 last, so it wins. An interrupted build continues where it stopped, because the unpacked source
stays until the wheel is complete.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Dict

from pipelines.machine import cache_folder
from tools.horovod_source import correct_source
from tools.horovod_target import (
    Target,
    chosen_gpu,
    find_kept_wheel,
    find_target,
    read_requirement,
    wheel_folder,
)
from tools.lock import lock
from tools.packages import site_packages, venv_python
from tools.progress import SetupError, run_command, say

JOB_GB = 2.0
"""Memory of one compiler process on torch's headers."""


def choose_num_jobs() -> int:
    """Compiler processes at once: $DISTRIBUTARY_BUILD_JOBS, else the CPU cores, limited by memory."""
    chosen = os.environ.get("DISTRIBUTARY_BUILD_JOBS")
    if chosen:
        if not chosen.isdecimal() or int(chosen) < 1:
            raise SetupError(f"DISTRIBUTARY_BUILD_JOBS must be a number of at least 1, got {chosen!r}")
        return int(chosen)
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return max(1, min(len(os.sched_getaffinity(0)), int(memory_gb / JOB_GB)))


def build_folder(target: Target) -> Path:
    """Where the source is unpacked and compiled: the same folder at each call, so that an interrupted build
    continues.

    Horovod's CMake files use the path as a regular expression. With a + in it (torch 2.13.0+cu130) the wheel
    would lack its library, so the folder name has none, and a cache folder with such characters is replaced
    by the temporary folder.
    """
    digest = target.key().rpartition("-")[2]
    if set(str(cache_folder())) & set("+*?()[]{}^$|\\ "):
        return Path(tempfile.gettempdir()) / f"distributary-horovod-{os.getuid()}-{digest}"
    return cache_folder() / "build" / f"horovod-{digest}"


def make_private(folder: Path) -> None:
    """Create the folder for this user only, or keep the one of an earlier build. Its source is compiled and
    run.

    Raises SetupError if there is a link, or a folder of another user. A folder that others could write to is
    emptied.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise SetupError(
            f"{folder} must be a folder of user {os.getuid()}: it is {stat.filemode(found.st_mode)}, of user "
            f"{found.st_uid}; fix: remove it, or set DISTRIBUTARY_CACHE to a path of plain letters"
        )
    if found.st_mode & 0o022:
        shutil.rmtree(folder)
        folder.mkdir(mode=0o700)


def build_environment(target: Target, folder: Path, *, nccl: Path = Path("/nonexistent")) -> Dict[str, str]:
    """Environment variables for the build. Writes the compiler wrapper into `folder`. `nccl`: folder of the
    NCCL that torch brings."""
    wrapper = folder / "cxx"
    compiler = os.environ.get("CXX") or "g++"
    wrapper.write_text(f'#!/bin/sh\nexec {compiler} "$@" -std=c++20\n', encoding="utf-8")
    wrapper.chmod(0o755)
    env = {
        **os.environ,
        "CXX": str(wrapper),
        "MAKEFLAGS": f"-j{choose_num_jobs()}",
        "CMAKE_POLICY_VERSION_MINIMUM": "3.5",  # CMake 4 rejects the minimum that the archive declares
        "HOROVOD_WITH_PYTORCH": "1",
        "HOROVOD_WITHOUT_TENSORFLOW": "1",
        "HOROVOD_WITHOUT_MXNET": "1",
        "HOROVOD_WITHOUT_MPI": "1",
        "HOROVOD_WITH_GLOO": "1",
    }
    for name in ("MAKELEVEL", "MFLAGS", "MAKEOVERRIDES"):  # set if make started us
        env.pop(name, None)
    if target.gpu:
        env.update(find_nccl(nccl, folder), HOROVOD_GPU_OPERATIONS="NCCL")
    else:
        env.pop("HOROVOD_GPU_OPERATIONS", None)
    return env


def find_nccl(installed: Path, folder: Path) -> Dict[str, str]:
    """Variables that point the build to the NCCL in `installed`, which torch brings; empty if there is none
    or if the user names another.

    One NCCL in a process is enough: torch has loaded it when Horovod's library asks for it. pip's package has
    libnccl.so.2 only, and the linker wants libnccl.so, so `folder` gets a link of that name.
    """
    library = installed / "lib" / "libnccl.so.2"
    named = ("HOROVOD_NCCL_HOME", "HOROVOD_NCCL_LIB", "HOROVOD_NCCL_INCLUDE")
    if not library.is_file() or any(name in os.environ for name in named):
        return {}
    (folder / "nccl").mkdir(exist_ok=True)
    link = folder / "nccl" / "libnccl.so"
    link.unlink(missing_ok=True)
    link.symlink_to(library)
    return {
        "HOROVOD_NCCL_INCLUDE": str(installed / "include"),
        "HOROVOD_NCCL_LIB": str(link.parent),
        "HOROVOD_NCCL_LINK": "SHARED",
    }


def unpack_source(checkout: Path, folder: Path, *, log: Path) -> Path:
    """Download and unpack the archive with the pinned checksum.

    A source folder that exists is returned as it is.
    """
    requirement = read_requirement()
    name = "-".join(requirement.split()[0].split("=="))
    source = folder / name
    if source.is_dir():
        return source
    requirement_file = folder / "horovod.txt"
    requirement_file.write_text(requirement + "\n", encoding="ascii")
    command = [str(venv_python(checkout)), "-m", "pip", "download", "--no-deps", "--no-build-isolation"]
    command += ["--no-binary", "horovod", "--require-hashes", "--requirement", str(requirement_file)]
    run_command([*command, "--dest", str(folder)], doing="downloading Horovod's source", log=log)
    unpacked = folder / "unpacking"
    shutil.rmtree(unpacked, ignore_errors=True)
    with tarfile.open(folder / f"{name}.tar.gz") as archive:
        # The checksum is pinned, so the members are known. Python has the filter since 3.11.4.
        if hasattr(tarfile, "data_filter"):
            archive.extraction_filter = tarfile.data_filter
        archive.extractall(unpacked)  # noqa: S202
    correct_source(unpacked / name)
    (unpacked / name).rename(source)
    return source


def build_wheel(checkout: Path, target: Target, *, log: Path) -> Path:
    """Build the wheel and keep it in the cache.

    A second set-up of the same user waits for the first and uses its wheel.
    """
    with lock(target.key()):
        kept = find_kept_wheel(target)
        if kept:
            return kept
        folder = build_folder(target)
        make_private(folder)
        built = folder / "dist"
        shutil.rmtree(built, ignore_errors=True)
        source = unpack_source(checkout, folder, log=log)
        # -v writes make's "[ 45%]" to the log, where the progress line finds it. pip's own cache ignores the
        # torch version.
        command = [
            str(venv_python(checkout)),
            "-m",
            "pip",
            "-v",
            "wheel",
            "--no-cache-dir",
            "--no-build-isolation",
        ]
        command += ["--no-deps", "--wheel-dir", str(built), str(source)]
        try:
            nccl = site_packages(checkout) / "nvidia" / "nccl"
            env = build_environment(target, folder, nccl=nccl)
            run_command(command, doing="building Horovod", log=log, env=env)
        except SetupError:
            # Only an interrupted build continues in its source; a failed one starts again.
            shutil.rmtree(source, ignore_errors=True)
            raise
        require_library(built)
        require_nccl(built, target)
        (built / "target.json").write_text(json.dumps(target._asdict(), indent=2) + "\n", encoding="utf-8")
        kept = _keep(built, target)
        shutil.rmtree(folder)
        return kept


def require_library(folder: Path) -> None:
    """Raise SetupError if the wheel in `folder` lacks Horovod's library.

    Such a build also ends with status 0.
    """
    wheel = next(folder.glob("horovod-*.whl"), None)
    names = zipfile.ZipFile(wheel).namelist() if wheel else []
    if not any(name.startswith("horovod/torch/mpi_lib_v2") for name in names):
        raise SetupError(
            f"the build of Horovod in {folder.parent} gave a wheel without horovod/torch/mpi_lib_v2; "
            "it is not kept"
        )


def require_nccl(folder: Path, target: Target) -> None:
    """Raise SetupError if the wheel in `folder` is for GPUs and its library lacks NCCL."""
    wheel = zipfile.ZipFile(next(folder.glob("horovod-*.whl")))
    libraries = [name for name in wheel.namelist() if name.startswith("horovod/torch/mpi_lib_v2")]
    if target.gpu and not any(b"ncclCommInitRank" in wheel.read(name) for name in libraries):
        raise SetupError(f"the build of Horovod for CUDA {target.gpu} gave a library without NCCL; not kept")


def find_or_build_wheel(checkout: Path, *, log: Path) -> Path:
    """The wheel for this environment.

    If the GPU build fails, print a warning and build for the CPU instead; with GPU=nccl that is an error.
    """
    target = find_target(checkout)
    kept = find_kept_wheel(target)
    if kept:
        return kept
    say(
        f"no wheel for torch {target.torch}, {target.python} in the cache: building, about 3 minutes on "
        "2 idle cores"
    )
    try:
        return build_wheel(checkout, target, log=log)
    except SetupError as error:
        if not target.gpu or chosen_gpu() == "nccl":
            raise
        say(
            "warning: Horovod with NCCL cannot be built; gradients are averaged on the CPU instead (Gloo)\n"
            f"{error}"
        )
        return build_wheel(checkout, target._replace(gpu=""), log=log)


def _keep(built: Path, target: Target) -> Path:
    """Move the folder with the wheel into the cache in one rename, so that it is complete or absent."""
    place = wheel_folder(target)
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(place, ignore_errors=True)
    part = place.with_name(f"{place.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.move(str(built), str(part))
    part.rename(place)
    return next(place.glob("horovod-*.whl"))
