"""The pack for executors: what goes in, the same bytes for the same files, and its use elsewhere."""

import gzip
import hashlib
import json
import marshal
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from pipelines.probe import read_code_digest
from tools import pack_items
from tools.elf import read_elf, replace_search_path
from tools.pack_archive import Archive, compile_source, find_floors, relative_search_path
from tools.pack_items import Item

CHECKOUT = Path(__file__).resolve().parents[2]
WITHOUT = ("torch", "transformers", "peft", "mlflow", "horovod", "scikit-learn", "matplotlib", "tokenizers")
"""Left out of the small pack of these tests: it prepares data, and has 0.5 GB in place of 4."""


@pytest.fixture
def library(tmp_path):
    """A function that compiles a shared library with a search path."""
    compiler = shutil.which("cc") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C compiler")

    def build(path: str) -> Path:
        source, target = tmp_path / "a.c", tmp_path / "liba.so"
        source.write_text("#include <math.h>\ndouble f(double x) { return pow(x, x); }\n")
        flags = ["-shared", "-fPIC", "-Wl,-soname,liba.so.1", f"-Wl,-rpath,{path}", "-Wl,--no-as-needed"]
        subprocess.run([compiler, *flags, str(source), "-o", str(target), "-lm"], check=True)
        return target

    return build


def test_a_library_says_what_it_needs(library):
    elf = read_elf(library("/opt/python/lib:/usr/lib").read_bytes())
    assert elf is not None
    assert (elf.soname, elf.search_path) == ("liba.so.1", "/opt/python/lib:/usr/lib")
    assert {"libm.so.6", "libc.so.6"} <= set(elf.needed)
    assert "GLIBC_2.29" in elf.versions  # pow of x86-64 since glibc 2.29
    assert read_elf(b"#!/bin/sh\n") is None


def test_a_changed_search_path_is_what_the_loader_uses(library, tmp_path):
    file = library("/nowhere/at/all")
    (tmp_path / "libs").mkdir()
    dependent = tmp_path / "user"
    (tmp_path / "user.c").write_text("double f(double); int main(void) { return f(2) == 4 ? 0 : 1; }\n")
    command = ["cc", str(tmp_path / "user.c"), str(file), "-o", str(dependent)]
    subprocess.run([*command, "-Wl,-rpath,/nowhere/at/all"], check=True)
    file.rename(tmp_path / "libs" / "liba.so.1")
    assert subprocess.run([str(dependent)], capture_output=True).returncode == 127
    content = dependent.read_bytes()
    elf = read_elf(content)
    assert elf is not None
    dependent.write_bytes(replace_search_path(content, elf, "$ORIGIN/libs"))
    assert subprocess.run([str(dependent)], capture_output=True).returncode == 0
    with pytest.raises(ValueError, match="'/a/much/longer/path' does not fit in place of '/nowhere/at/all'"):
        replace_search_path(content, elf, "/a/much/longer/path")


@pytest.mark.parametrize(
    ("before", "name", "after"),
    [
        (
            "/home/a/.venv/lib/python3.11/site-packages/torch/lib",
            "P/horovod/torch/m.so",
            "$ORIGIN/../../torch/lib",
        ),
        ("/opt/python/lib", "lib/python3.11/lib-dynload/_ssl.so", "$ORIGIN/../.."),
        ("/opt/python/lib", "bin/python3.11", "$ORIGIN/../lib"),
        ("/opt/python/lib:/usr/lib/x", "bin/python3.11", "$ORIGIN/../lib:/usr/lib/x"),
        ("/x/site-packages", "P/some/very/deep/folder/m.so", ""),  # longer than before: dropped
        ("$ORIGIN/../../nvidia/lib", "P/torch/lib/m.so", None),
        ("/opt/python/library", "bin/python3.11", None),
        ("", "bin/python3.11", None),
    ],
)
def test_search_paths_of_this_machine_become_relative(before, name, after):
    folders = {"site-packages": "P", "/opt/python/lib": "lib"}
    elf = read_elf(Path(sys.executable).resolve().read_bytes())
    assert elf is not None
    assert relative_search_path(elf._replace(search_path=before), name, folders) == after


def test_floors_are_the_highest_versions_as_numbers():
    versions = ["GLIBC_2.9", "GLIBC_2.34", "GLIBC_PRIVATE", "GLIBCXX_3.4.9", "GLIBCXX_3.4.30", "libnccl.so.2"]
    assert find_floors(versions) == {"GLIBC": "2.34", "GLIBCXX": "3.4.30"}


def test_bytecode_is_used_whatever_the_time_of_its_source(tmp_path):
    (tmp_path / "module.py").write_text("answer = 1\n")
    item = compile_source(Item("module.py", tmp_path / "module.py"))
    assert item is not None
    target = tmp_path / item.name
    target.parent.mkdir()
    target.write_bytes(item.content)
    # Another source of another time: Python must not look at it.
    (tmp_path / "module.py").write_text("answer = 2\n")
    command = [sys.executable, "-c", "import module; print(module.answer, module.__file__)"]
    shown = subprocess.check_output(command, cwd=tmp_path, text=True)
    assert shown == f"1 {tmp_path}/module.py\n"
    assert compile_source(Item("template.py", None, b"{{ name }} = = 1")) is None


def test_the_same_files_give_the_same_bytes(tmp_path):
    written = []
    for folder, time in (("a", 1_000_000_000), ("b", 1_700_000_000)):
        (tmp_path / folder).mkdir()
        file = tmp_path / folder / "data"
        file.write_bytes(os.urandom(100) if not written else (tmp_path / "a" / "data").read_bytes())
        file.chmod(0o700 if folder == "a" else 0o711)
        os.utime(file, (time, time))
        archive = Archive(tmp_path / f"{folder}.tar.gz", {}, 100)
        archive.add(Item("bin/data", file))
        archive.add(Item("large", None, b"0123456789abcdef" * 600_000))  # three blocks of gzip
        written.append(archive.close())
    assert written[0] == written[1]
    content = (tmp_path / "a.tar.gz").read_bytes()
    assert hashlib.sha256(content).hexdigest() == written[0].sha256
    assert (tmp_path / "b.tar.gz").read_bytes() == content
    with tarfile.open(tmp_path / "a.tar.gz") as packed:
        assert [(each.name, each.mode, each.uid) for each in packed] == [
            ("bin/data", 0o755, 0),
            ("large", 0o644, 0),
        ]
        assert packed.extractfile("large").read() == b"0123456789abcdef" * 600_000
    assert gzip.decompress(content)[:8] == b"bin/data"


def test_what_only_a_gpu_uses_is_left_out(tmp_path, library):
    file = library("/x")  # needs libm and libc
    items = [
        Item("P/torch/lib/libtorch_python.so", file),
        Item("P/nvidia/lib/libm.so.6", file),  # stands for a library that torch is linked with
        Item("P/nvidia/lib/libengines.so.9", file),
        Item("P/nvidia_x.dist-info/METADATA", None, b"x"),
        Item("P/triton/__init__.py", None, b""),
        Item("P/numpy/__init__.py", None, b""),
    ]
    packages = {item.name: "nvidia-x" for item in items if "nvidia" in item.name}
    packages |= {"P/triton/__init__.py": "triton", "P/numpy/__init__.py": "numpy"}
    kept = [item.name for item in pack_items.leave_out_gpu(items, packages)]
    assert kept == [items[0].name, items[1].name, items[3].name, items[5].name]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """A small pack that was made as `make pack` makes it and unpacked by tar; (folder, what was printed)."""
    folder = tmp_path_factory.mktemp("pack")
    flags = [word for package in WITHOUT for word in ("--without", package)]
    command = [sys.executable, "-m", "tools.pack", "--output", str(folder / "dist"), *flags]
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    shown = subprocess.run(command, cwd=CHECKOUT, env=env, capture_output=True, text=True, timeout=500)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    (archive,) = (folder / "dist").glob("*.tar.gz")
    subprocess.run(["sha256sum", "--check", f"{archive.name}.sha256"], cwd=archive.parent, check=True)
    target = folder / "other place"
    target.mkdir()
    subprocess.run(["tar", "-xzf", str(archive), "-C", str(target)], check=True)
    return target, shown.stdout


@pytest.mark.slow
def test_the_pack_runs_where_the_environment_is_missing(unpacked, tmp_path):
    target, _ = unpacked
    hidden = [sys.prefix, os.path.realpath(sys.prefix), sys.base_prefix, str(CHECKOUT)]
    hidden = [path for path in dict.fromkeys(hidden) if path not in ("/usr", "/usr/local")]
    (tmp_path / "empty").mkdir()
    code = (
        "import json, ssl, sqlite3, ctypes, deltalake, pyarrow.parquet, pandas, sys, pipelines.corpus.build\n"
    )
    code += "from pipelines.machine import jars_folder\n"
    code += "print(json.dumps([sys.prefix, str(jars_folder()), pipelines.corpus.build.__file__]))\n"
    code += (
        "maps = {line.split(maxsplit=5)[-1].strip() for line in open('/proc/self/maps') if '.so' in line}\n"
    )
    code += "print(json.dumps(sorted(maps)))\n"
    (tmp_path / "probe.py").write_text(code)
    hide = "".join(f"mount --bind '{tmp_path}/empty' '{path}'; " for path in reversed(hidden))
    script = f"{hide}cd /; exec '{target}/bin/python' {tmp_path}/probe.py"
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces: unshare -m is not permitted")
    env = {"PATH": "/usr/bin:/bin:/usr/sbin", "PYTHONHOME": "/nowhere"}
    shown = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], env=env, capture_output=True, text=True, timeout=120
    )
    assert shown.returncode == 0, shown.stderr
    places, libraries = map(json.loads, shown.stdout.splitlines())
    assert places[0] == str(target)
    assert places[1] == str(target / "share" / "distributary" / "jars")
    assert places[2].startswith(str(target))
    outside = {Path(library).name for library in libraries if not library.startswith(str(target))}
    assert any("libpython" in library or "python3" in library for library in libraries)
    assert all(name.startswith(pack_items.HOST_LIBRARIES) for name in outside), outside


@pytest.mark.slow
def test_the_pack_says_what_is_in_it(unpacked):
    target, shown = unpacked
    facts = json.loads((target / "PACK.json").read_text())
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert facts["packages"]["deltalake"] == __import__("deltalake").__version__
    assert not set(facts["packages"]) & set(WITHOUT)
    assert len(facts["jars"]) == 4
    assert "GLIBC" in facts["needs_from_the_system"]
    assert "compiled" in shown
    digest = "from pipelines.probe import read_code_digest; print(read_code_digest())"
    shown = subprocess.check_output([str(target / "bin" / "python"), "-c", digest], cwd=target, text=True)
    assert shown.strip() == read_code_digest()
    assert not list(target.glob("lib/python3*/site-packages/pyspark/jars/*"))  # a cluster has them
    assert not [path for path in target.rglob("*") if path.is_symlink()]
    assert marshal.loads(next(target.rglob("deltalake/__pycache__/__init__.*.pyc")).read_bytes()[16:])
