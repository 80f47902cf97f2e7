"""Set-up: what it says when something is missing, and what it builds, fetches and keeps."""

import os
import re
import sys
import zipfile
from pathlib import Path

import pytest

from tools import horovod_wheel, jars, system
from tools.cache import cache_folder
from tools.progress import SetupError, clock, percent_done, remedy, run

CHECKOUT = Path(__file__).resolve().parents[2]
DEBIAN = {"ID": "debian", "VERSION_ID": "12"}
FEDORA = {"ID": "fedora", "VERSION_ID": "41"}
TARGET = horovod_wheel.Target("0.28.1", "2.13.0+cu130", "cp311", "linux-x86_64-glibc-2.36", "")


def test_an_empty_machine_hears_of_everything_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    for name in ("PYTHON", "JAVA_HOME", "CXX"):
        monkeypatch.delenv(name, raising=False)
    _, parts = system.check_all(checkout=tmp_path, cache=tmp_path)
    missing = [part for part in parts if part.problem and part.name != "disk"]
    assert [part.name for part in missing] == ["Python", "Java", "C++", "CMake", "make"]
    lines = system.report(missing, DEBIAN).splitlines()
    assert lines[0] == "5 of what this machine needs are missing:"
    assert len([line for line in lines if "apt-get install -y" in line]) == 1
    assert " g++ cmake make" in next(line for line in lines if "apt-get install" in line)
    assert "gcc-c++ cmake make" in system.report(missing, FEDORA)
    assert "what Debian calls" in system.report(missing, {"ID": "plan9"})


def test_a_wrong_python_named_by_hand_is_not_mended_by_installing(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHON", str(tmp_path / "python2"))
    part = system.check_python(system.choose_python(), DEBIAN)
    assert (part.apt, part.fix) == ((), "unset PYTHON, or name another")
    with pytest.raises(SetupError, match=r"python2 is not 3\.11 or 3\.12; fix: unset PYTHON"):
        system.install([part], log=tmp_path / "log")


def test_python_without_headers_names_the_package_of_its_own_version():
    python = {
        "version": [3, 12, 3],
        "executable": "/usr/bin/python3.12",
        "prefix": "/usr",
        "venv": False,
        "headers": False,
    }
    part = system.check_python(python, DEBIAN)
    assert part.apt == ("python3.12-venv", "python3.12-dev")
    assert "lacks venv with ensurepip and headers (Python.h)" in part.problem
    assert (
        system.check_python({**python, "prefix": "/opt/python"}, DEBIAN).apt == ()
    )  # apt cannot mend that one


def test_a_compiler_without_cxx20_is_refused(tmp_path, monkeypatch):
    compiler = tmp_path / "g++"
    compiler.write_text(
        '#!/bin/sh\n[ "$1" = -dumpfullversion ] && echo 9.4.0 && exit 0\nexit 1\n', encoding="ascii"
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert "9.4.0 does not take C++20" in system.check_compiler().problem


def test_this_machine_has_all_parts():
    chosen, parts = system.check_all(checkout=CHECKOUT, cache=cache_folder())
    assert {
        part.name: part.problem for part in parts if part.name not in ("disk", "Java") and part.problem
    } == {}
    assert (3, 11) <= tuple(chosen["version"][:2]) < (3, 13)


@pytest.mark.parametrize("field", ["horovod", "torch", "python", "platform", "gpu"])
def test_wheel_key_changes_with_each_part_of_the_target(field):
    other = TARGET._replace(**{field: getattr(TARGET, field) + "1"})
    assert TARGET.key() != other.key()
    assert TARGET.key() == horovod_wheel.Target(*TARGET).key()


def test_wheel_key_is_a_folder_name_that_says_what_it_is_for():
    assert re.fullmatch(r"horovod-0\.28\.1-torch-2\.13\.0\+cu130-cp311-cpu-[0-9a-f]{12}", TARGET.key())


def test_wheel_is_found_only_under_its_own_key(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTRIBUTARY_CACHE", str(tmp_path))
    folder = tmp_path / "wheels" / TARGET.key()
    folder.mkdir(parents=True)
    (folder / "horovod-0.28.1-cp311-cp311-linux_x86_64.whl").touch()
    assert horovod_wheel.kept_wheel(TARGET) is not None
    assert horovod_wheel.kept_wheel(TARGET._replace(torch="2.13.1")) is None


def test_horovod_is_never_built_in_a_path_that_reads_as_a_regular_expression(tmp_path, monkeypatch):
    for cache in ("plain", "c++ things"):
        monkeypatch.setenv("DISTRIBUTARY_CACHE", str(tmp_path / cache))
        assert not set("+*?()[]{}^$| ") & set(str(horovod_wheel.build_folder(TARGET)))
    assert "+" in TARGET.torch  # as PyPI's torch names itself


def test_horovod_is_never_built_in_a_folder_that_somebody_else_may_have_filled(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTRIBUTARY_CACHE", str(tmp_path / "c++ things"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    folder, planted = horovod_wheel.build_folder(TARGET), tmp_path / "planted"
    (planted / "horovod-0.28.1").mkdir(parents=True)
    folder.parent.mkdir()
    assert folder.parent == tmp_path / "tmp"  # the predictable place
    folder.symlink_to(planted)
    with pytest.raises(
        SetupError, match=r"distributary-horovod-.*must be a folder of user \d+: it is lrwx.*fix: remove it"
    ):
        horovod_wheel.build_wheel(tmp_path, TARGET, log=tmp_path / "log")
    folder.unlink()
    planted.rename(folder)
    other = os.getuid() + 1
    monkeypatch.setattr("os.getuid", lambda: other)
    with pytest.raises(
        SetupError, match=rf"a folder of user {other}: it is drwx.*, of user {other - 1}; fix: remove it"
    ):
        horovod_wheel.make_private(folder)


def test_a_build_goes_on_in_a_folder_that_only_its_user_could_write_to(tmp_path):
    for mode, kept in ((0o700, True), (0o755, True), (0o775, False), (0o777, False)):
        folder = tmp_path / f"{mode:o}"
        horovod_wheel.make_private(folder)
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "horovod-0.28.1").mkdir()
        folder.chmod(mode)
        horovod_wheel.make_private(folder)
        assert (folder / "horovod-0.28.1").exists() is kept


def test_a_wheel_without_its_library_is_not_kept(tmp_path):
    with zipfile.ZipFile(tmp_path / "horovod-0.28.1-cp311-cp311-linux_x86_64.whl", "w") as wheel:
        wheel.writestr("tmp/build/horovod/torch/mpi_lib_v2.so", b"")  # where a + in the path once put it
    with pytest.raises(SetupError, match="without horovod/torch/mpi_lib_v2"):
        horovod_wheel.refuse_incomplete(tmp_path)


def test_horovod_build_is_bounded_by_the_named_number_of_jobs(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTRIBUTARY_BUILD_JOBS", "3")
    env = horovod_wheel.build_environment(TARGET, tmp_path)
    assert env["MAKEFLAGS"] == "-j3"
    assert (tmp_path / "cxx").read_text().endswith('"$@" -std=c++20\n')
    assert "HOROVOD_GPU_OPERATIONS" not in env
    assert (
        horovod_wheel.build_environment(TARGET._replace(gpu="13.0"), tmp_path)["HOROVOD_GPU_OPERATIONS"]
        == "NCCL"
    )


def test_horovod_source_is_pinned_by_checksum():
    assert re.fullmatch(r"horovod==0\.28\.1 --hash=sha256:[0-9a-f]{64}", horovod_wheel.pinned())


def test_jar_with_another_checksum_is_named_with_both_checksums(tmp_path):
    (tmp_path / "delta-storage-4.4.0.jar").write_bytes(b"not a jar")
    wanted = {"delta-storage-4.4.0.jar": "0" * 64, "delta-spark_4.2_2.13-4.4.0.jar": "1" * 64}
    broken, missing = jars.problems(tmp_path, wanted)
    assert (
        "has sha256 1f0f631427194028bfeca05414b146420645a4c0ede4b3692c1afc9633557b08" in broken
    )  # by sha256sum
    assert f"pinned is {'0' * 64}" in broken
    assert missing == f"delta-spark_4.2_2.13-4.4.0.jar is not in {tmp_path}"


def test_jar_table_equals_the_one_sessions_use(monkeypatch, tmp_path):
    from pipelines import spark

    assert jars.table(CHECKOUT) == spark.DELTA_JARS
    assert jars.jars_folder() == spark.jars_folder()
    monkeypatch.setenv("DISTRIBUTARY_CACHE", str(tmp_path))
    assert jars.jars_folder() == spark.jars_folder() == tmp_path / "jars"


def test_jar_coordinates_come_from_the_file_name():
    assert jars.coordinates("delta-spark_4.2_2.13-4.4.0.jar") == "io.delta:delta-spark_4.2_2.13:4.4.0"


def test_failed_command_shows_its_last_lines_its_log_and_the_remedy(tmp_path):
    log = tmp_path / "logs" / "a.log"
    script = "print('No space left on device'); raise SystemExit(3)"
    with pytest.raises(
        SetupError, match=r"(?s)copying: failed with status 3.*No space left.*a\.log.*fix: free some disk"
    ):
        run([sys.executable, "-c", script], doing="copying", log=log)


def test_long_command_gives_a_sign_of_life(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tools.progress.HEARTBEAT_SECONDS", 0.1)
    script = "import time; print('[ 45%] Building CXX object', flush=True); time.sleep(1)"
    run([sys.executable, "-c", script], doing="building Horovod", log=tmp_path / "a.log")
    assert "building Horovod 0:00:00 (45 %)" in capsys.readouterr().out


def test_clock_and_percent():
    assert clock(3 * 3600 + 80.9) == "3:01:20"
    assert percent_done("[  4%] a\n[ 98%] b") == "98 %"
    assert percent_done("no number") is None
    assert remedy("all well") == ""


def test_pins_cover_every_direct_requirement():
    from configparser import ConfigParser

    config = ConfigParser()
    config.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    listed = [config["options"]["install_requires"]]
    listed += [config["options.extras_require"][name] for name in ("demo", "test", "dev")]
    lines = [line.strip() for text in listed for line in text.splitlines() if line.strip()]
    direct = {re.split(r"[ =<>!~]", line)[0].replace("_", "-") for line in lines}
    pinned = {
        line.partition("==")[0]
        for line in (CHECKOUT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    assert len(direct) > 20
    assert direct - pinned == set()
