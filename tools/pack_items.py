"""The files of a pack: interpreter, packages with what they need, the product, Delta's jars.

Packages are copied from the environment as it is installed, so the executors get what was tested. Only what
distributary needs is taken: no test or build tools.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import Distribution
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, NamedTuple, Optional, Set

from pipelines.machine import JAR_GROUPS, find_jar_problems, jars_folder
from tools.elf import read_elf
from tools.progress import SetupError, run_command

PROBE = """
import json, os, site, sys, sysconfig
paths = site.getsitepackages(["PREFIX"])
inside = [path for path in paths if path.startswith("PREFIX/lib/python%d.%d/" % sys.version_info[:2])]
print(json.dumps({"program": os.path.realpath(sys.executable), "stdlib": sysconfig.get_path("stdlib"),
                  "packages": inside[-1][len("PREFIX/"):], "prefix": sys.prefix}))
"""
NOT_STDLIB = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idlelib",
    "turtledemo",
    "tkinter",
    "ensurepip",
    "lib2to3",
}
"""Folders of the standard library that no executor needs: tests, windows, the installer."""
NOT_MODULES = ("_tkinter.", "nis.", "_test", "_ctypes_test.", "_xxtestfuzz.", "xxlimited")
"""Compiled modules that no executor needs; the first two bring libraries of the desktop and of Kerberos."""
HOST_LIBRARIES = (
    "linux-vdso",
    "ld-linux",
    "libc.",
    "libm.",
    "libdl.",
    "libpthread.",
    "librt.",
    "libutil.",
) + (("libresolv.", "libnsl.", "libgcc_s.", "libstdc++."))
"""They belong to the system: wheels for manylinux expect them there too (PEP 513)."""
ON_DEMAND = ("nvidia-", "cuda-", "triton")
"""Packages of which a CPU needs only the libraries that torch loads when it is imported."""
LAUNCHER = """#!/bin/sh
# The Python of this pack, wherever it was unpacked. Nothing of the machine's own Python is used.
here=$(dirname -- "$(readlink -f -- "$0")")
unset PYTHONHOME
PYTHONNOUSERSITE=1
LD_LIBRARY_PATH="$here/../lib${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"
export PYTHONNOUSERSITE LD_LIBRARY_PATH
exec "$here/{program}" {arguments}"$@"
"""


class Item(NamedTuple):
    """One file of the pack."""

    name: str
    """Path inside the pack."""
    source: Optional[Path]
    """The file to copy; None if `content` is given."""
    content: bytes = b""
    is_program: bool = False


class Base(NamedTuple):
    """The Python installation under the environment."""

    program: Path
    stdlib: Path
    packages: str
    """Folder, inside the pack, where this Python looks for packages: Debian's looks in dist-packages."""
    prefix: Path


def find_base() -> Base:
    """The installation of the Python that runs this. Raises SetupError if it cannot say where it is."""
    program = Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    answer = subprocess.run([str(program), "-I", "-S", "-c", PROBE], capture_output=True, text=True)
    if answer.returncode:
        raise SetupError(f"{program} does not start; fix: make setup\n{answer.stderr[-2000:]}")
    found = json.loads(answer.stdout)
    return Base(
        Path(found["program"]), Path(found["stdlib"]).resolve(), found["packages"], Path(found["prefix"])
    )


def list_interpreter(base: Base) -> Iterator[Item]:
    """The program, its starter, the standard library, and the shared libraries that a bare system lacks."""
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    yield Item(f"bin/{name}", base.program, is_program=True)
    starter = LAUNCHER.format(program=name, arguments="")
    command = LAUNCHER.format(program=name, arguments="-m jobs.shell.cli ")
    yield Item("bin/python", None, starter.encode(), is_program=True)
    yield Item("bin/python3", None, starter.encode(), is_program=True)
    yield Item("bin/distributary", None, command.encode(), is_program=True)
    modules = []
    for file in list_files(base.stdlib):
        parts = file.relative_to(base.stdlib).parts
        is_link_data = parts[0].startswith("config-") and file.suffix != ".py"
        is_unused = parts[0] in NOT_STDLIB or is_link_data or file.suffix in (".a", ".pyc")
        if is_unused or (file.suffix == ".so" and file.name.startswith(NOT_MODULES)):
            continue
        yield Item(f"lib/{name}/{'/'.join(parts)}", file)
        if file.suffix == ".so":
            modules.append(file)
    for library in find_libraries([base.program, *modules]):
        yield Item(f"lib/{library.name}", library)


def find_libraries(files: List[Path]) -> List[Path]:
    """Shared libraries that the system's loader finds for these files, without HOST_LIBRARIES.

    Raises SetupError if one is missing here.
    """
    found: Dict[str, Path] = {}
    answer = subprocess.run(["ldd", *map(str, files)], capture_output=True, text=True)
    for line in answer.stdout.splitlines():
        name, arrow, place = line.strip().partition(" => ")
        if not arrow or name.startswith(HOST_LIBRARIES):
            continue
        if place.startswith("not found"):
            raise SetupError(f"{name}, which Python needs, is missing on this machine; fix: make system")
        found[name] = Path(place.rpartition(" (")[0])
    # Under the name by which they are needed: libz.so.1, not libz.so.1.2.13.
    return [found[name].parent / name for name in sorted(found)]


def list_package(distribution: Distribution, folder: str) -> Iterator[Item]:
    """The files that an installed package lists in its RECORD, without scripts: those name this machine's
    Python.

    Raises SetupError if a file is missing or if there is no RECORD.
    """
    if distribution.files is None:
        raise SetupError(f"{distribution.name} has no list of files; fix: rm -r .venv, then make setup")
    for file in distribution.files:
        if file.suffix == ".pyc" or ".." in file.parts or file.name in ("direct_url.json", "INSTALLER"):
            continue
        source = Path(str(distribution.locate_file(file)))
        if not source.is_file():
            raise SetupError(f"{source} is missing; fix: rm -r .venv, then make setup")
        yield Item(f"{folder}/{file.as_posix()}", source)


def list_product(checkout: Path, folder: str, *, log: Path) -> Iterator[Item]:
    """The files of our own wheel, built from the checkout as it is now."""
    with tempfile.TemporaryDirectory(prefix="distributary-pack-") as scratch:
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", scratch, "."]
        run_command(command, doing="building the wheel", log=log, cwd=checkout)
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
            for name in sorted(wheel.namelist()):
                yield Item(f"{folder}/{name}", None, wheel.read(name))


def list_jars(group: str) -> Iterator[Item]:
    """The jars of a group, for a driver that starts from the pack; executors get theirs from the driver.

    Raises SetupError if one is missing or has another checksum.
    """
    problems = find_jar_problems(jars_folder(), JAR_GROUPS[group])
    if problems:
        raise SetupError("; ".join(problems) + f"; fix: make setup, or python -m tools.jars {group}")
    for name in JAR_GROUPS[group]:
        yield Item(f"share/distributary/jars/{name}", jars_folder() / name)


def leave_out(items: Iterable[Item], *, with_spark: bool) -> List[Item]:
    """Without headers and static libraries; without Spark's own files, which a cluster has, unless
    `with_spark`."""
    kept = []
    for item in items:
        parts = item.name.split("/")
        is_header = "include" in parts and item.name.endswith((".h", ".hpp", ".cuh", ".hxx", ".inl", ".inc"))
        is_spark = "pyspark" in parts and set(parts) & {"jars", "examples", "R", "kubernetes", "licenses"}
        if not (is_header or item.name.endswith(".a") or (is_spark and not with_spark)):
            kept.append(item)
    return kept


def leave_out_gpu(items: List[Item], packages: Dict[str, str]) -> List[Item]:
    """Only what a CPU needs of the packages of ON_DEMAND: the libraries that are loaded with torch itself.

    packages: name inside the pack -> package. torch's own build for CUDA cannot be imported without them.
    What is loaded when a GPU is used (kernels of cuDNN, triton, the compiler) goes.
    """
    of_gpu = [item for item in items if packages.get(item.name, "").startswith(ON_DEMAND)]
    libraries = {item.name.rpartition("/")[2]: item for item in items if ".so" in item.name}
    needed: Set[str] = set()
    waiting = [name for name in libraries if name in ("libtorch_python.so", "libtorch_global_deps.so")]
    while waiting:
        name = waiting.pop()
        if name in needed or name not in libraries:
            continue
        needed.add(name)
        source = libraries[name].source
        assert source is not None, "libraries are files of packages"
        elf = read_elf(source.read_bytes())
        waiting += elf.needed if elf else ()
    optional = {item.name for item in of_gpu if item.name.rpartition("/")[2] not in needed}
    return [
        item
        for item in items
        if (item.name not in optional or ".dist-info/" in item.name)
        and not item.name.endswith("libtorch_cuda_linalg.so")
    ]


def list_files(folder: Path) -> Iterator[Path]:
    """All files below a folder in the order of their names, without caches of bytecode."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if path.name != "__pycache__" and path.name not in ("site-packages", "dist-packages"):
                yield from list_files(path)
        elif path.is_file():
            yield path
