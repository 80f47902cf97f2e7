"""When a set-up has nothing to do, and which changes make it run again."""

import hashlib
import os
import sys
from types import SimpleNamespace

import pytest

from tools import packages, setup, system

SITE = ".venv/lib/python3.11/site-packages"
INSTALLED = (
    "torch-2.13.0+cu130",
    "typing_extensions-4.16.0",
    "horovod-0.28.1",
    "distributary-0.1.0",
    "pip-26.3",
)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A small checkout whose set-up is complete, and its cache folder beside it."""
    monkeypatch.setenv("DISTRIBUTARY_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PYTHON", raising=False)
    files = {name: f"{name}\n" for name in setup.INPUTS}
    monkeypatch.setattr("pipelines.machine.DELTA_JARS", {"a.jar": hashlib.sha256(b"jar").hexdigest()})
    files[".venv/pyvenv.cfg"] = "home = /usr/bin\nversion = 3.11.7\n"
    files["../cache/jars/a.jar"] = "jar"
    files["constraints.txt"] = (
        "# all\ntorch==2.13.0\nTyping.Extensions==4.16.0\ntomli==2.4.1 ; python_version < '3.11'\n"
    )
    files[f"{SITE}/horovod/metadata.json"] = '{"pytorch": "2.13.0+cu130"}'
    files |= {f"{SITE}/{name}.dist-info/RECORD": "" for name in INSTALLED}
    for name, text in files.items():
        (tmp_path / "checkout" / name).resolve().parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "checkout" / name).resolve().write_text(text, encoding="ascii")
    (tmp_path / "checkout" / ".venv" / "bin").mkdir()
    (tmp_path / "checkout" / ".venv" / "bin" / "python").symlink_to(sys.executable)
    setup.write_stamp(tmp_path / "checkout")
    return tmp_path / "checkout"


def test_a_complete_set_up_is_current(checkout):
    assert packages.venv_version(checkout) == "3.11.7"
    assert setup.is_current(checkout)


@pytest.mark.parametrize("name", setup.INPUTS)
def test_set_up_runs_again_when_an_input_changed(checkout, name):
    (checkout / name).write_text("changed\n", encoding="ascii")
    assert not setup.is_current(checkout)


def test_set_up_runs_again_without_jar_or_python(checkout):
    jar = checkout.parent / "cache" / "jars" / "a.jar"
    jar.write_bytes(b"other")
    assert not setup.is_current(checkout)
    jar.write_bytes(b"jar")
    assert setup.is_current(checkout)
    (checkout / ".venv" / "bin" / "python").unlink()
    assert not setup.is_current(checkout)


@pytest.mark.parametrize(
    ("removed", "added", "problem"),
    [
        ("horovod-0.28.1", (), "horovod missing, pinned is 0.28.1"),
        ("horovod-0.28.1", ("horovod-0.27.0",), "horovod 0.27.0, pinned is 0.28.1"),
        ("torch-2.13.0+cu130", ("torch-2.14.0",), "torch 2.14.0, pinned is 2.13.0"),
        ("pip-26.3", ("torch-2.14.0",), "torch 2.13.0+cu130 and 2.14.0, pinned is 2.13.0"),
        ("typing_extensions-4.16.0", (), "typing-extensions missing, pinned is 4.16.0"),
        ("pip-26.3", ("tomli-2.0",), "tomli 2.0, pinned is 2.4.1"),
        ("distributary-0.1.0", (), "distributary missing"),
    ],
)
def test_set_up_runs_again_when_packages_differ_from_pins(checkout, removed, added, problem):
    (checkout / SITE / f"{removed}.dist-info" / "RECORD").unlink()
    (checkout / SITE / f"{removed}.dist-info").rmdir()
    for name in added:
        (checkout / SITE / f"{name}.dist-info").mkdir()
    assert not setup.is_current(checkout)
    assert problem in setup.find_problems(checkout)


@pytest.mark.parametrize(
    ("record", "problem"),
    [('{"pytorch": "2.12.1"}', "horovod was built for torch 2.12.1"), ('{"pyt', "horovod's build record ")],
)
def test_set_up_runs_again_when_horovod_was_built_for_another_torch(checkout, record, problem):
    (checkout / SITE / "horovod" / "metadata.json").write_text(record, encoding="ascii")
    assert not setup.is_current(checkout)
    assert [line[: len(problem)] for line in setup.find_problems(checkout)] == [problem]


@pytest.mark.parametrize(
    ("free_gb", "filled", "needed"), [(2, True, ""), (1.9, True, "2 needed"), (9, False, "10 needed")]
)
def test_an_interrupted_set_up_needs_less_space(checkout, monkeypatch, free_gb, filled, needed):
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=free_gb * 1e9))
    if not filled:
        for name in set(INSTALLED) - {"pip-26.3"}:  # only pip, as in a new venv
            (checkout / SITE / f"{name}.dist-info").rename(checkout / name)
    problem = system.check_disk(checkout, checkout.parent / "cache").problem
    assert (needed in problem) if needed else (problem == "")


def test_set_up_runs_again_when_the_checkout_moved(checkout):
    moved = checkout.rename(checkout.with_name("moved"))
    assert packages.venv_version(moved) == "3.11.7"
    assert not setup.is_current(moved)


def test_a_named_python_is_kept_by_later_calls(checkout, monkeypatch):
    monkeypatch.setenv("PYTHON", sys.executable)
    setup.write_stamp(checkout)
    monkeypatch.delenv("PYTHON")
    assert not setup.is_current(checkout)
    setup.recall_choices(checkout)
    assert setup.is_current(checkout)
    monkeypatch.setenv("PYTHON", "another")
    setup.recall_choices(checkout)
    assert os.environ["PYTHON"] == "another"


def test_a_chosen_gpu_build_is_kept_by_later_calls(checkout, monkeypatch):
    monkeypatch.setenv("DISTRIBUTARY_GPU", "nccl")
    setup.write_stamp(checkout)
    library = checkout / SITE / "horovod" / "torch" / "mpi_lib_v2.so"
    library.parent.mkdir(parents=True, exist_ok=True)
    library.write_bytes(b"ncclCommInitRank")
    assert setup.is_current(checkout)
    monkeypatch.setenv("DISTRIBUTARY_GPU", "")
    assert not setup.is_current(checkout)
    setup.recall_choices(checkout)
    assert setup.is_current(checkout)
    library.write_bytes(b"")  # the wheel of another set-up, built for the CPU
    assert setup.find_problems(checkout) == ["horovod was built without NCCL, and GPU=nccl asks for it"]
    monkeypatch.setenv("DISTRIBUTARY_GPU", "cpu")
    setup.recall_choices(checkout)
    assert os.environ["DISTRIBUTARY_GPU"] == "cpu"


def test_an_incomplete_stamp_is_ignored(checkout):
    setup.stamp_path(checkout).write_text('{"key": ', encoding="ascii")
    assert not setup.is_current(checkout)
