"""Set-up: the messages about missing parts, and what it builds, downloads and keeps."""

import ast
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pipelines import machine
from pipelines.machine import cache_folder
from tools import horovod_target, horovod_wheel, jars, system, system_install
from tools.progress import SetupError, find_remedy, format_clock, parse_percent, run_command

CHECKOUT = Path(__file__).resolve().parents[2]
DEBIAN = {"ID": "debian", "VERSION_ID": "12"}
FEDORA = {"ID": "fedora", "VERSION_ID": "41"}
TARGET = horovod_target.Target("0.28.1", "2.13.0+cu130", "cp311", "linux-x86_64-glibc-2.36", "")


def test_all_missing_parts_are_reported_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    for name in ("PYTHON", "JAVA_HOME", "CXX"):
        monkeypatch.delenv(name, raising=False)
    _, parts = system.check_all(checkout=tmp_path, cache=tmp_path)
    missing = [part for part in parts if part.problem and part.name != "disk"]
    assert [part.name for part in missing] == ["Python", "Java", "C++", "CMake", "make"]
    lines = system_install.describe_missing(missing, DEBIAN).splitlines()
    assert lines[0] == "this machine lacks 5 of the parts that Distributary needs:"
    assert len([line for line in lines if "apt-get install -y" in line]) == 1
    assert " g++ cmake make" in next(line for line in lines if "apt-get install" in line)
    assert "gcc-c++ cmake make" in system_install.describe_missing(missing, FEDORA)
    assert "(Debian's names)" in system_install.describe_missing(missing, {"ID": "plan9"})


def test_a_wrong_python_variable_is_not_fixed_by_packages(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHON", str(tmp_path / "python2"))
    part = system.check_python(system.choose_python(), DEBIAN)
    assert (part.apt, part.fix) == ((), "unset PYTHON, or set it to another one")
    with pytest.raises(SetupError, match=r"python2 is not 3\.11 or 3\.12; fix: unset PYTHON"):
        system_install.install_parts([part], log=tmp_path / "log")


def test_missing_headers_name_the_package_of_that_python():
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
    )  # apt did not install that one


def test_a_compiler_without_cxx20_is_rejected(tmp_path, monkeypatch):
    compiler = tmp_path / "g++"
    compiler.write_text(
        '#!/bin/sh\n[ "$1" = -dumpfullversion ] && echo 9.4.0 && exit 0\nexit 1\n', encoding="ascii"
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert "9.4.0 does not support C++20" in system.check_compiler().problem


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
    assert TARGET.key() == horovod_target.Target(*TARGET).key()


def test_wheel_key_is_a_readable_folder_name():
    assert re.fullmatch(r"horovod-0\.28\.1-torch-2\.13\.0\+cu130-cp311-cpu-[0-9a-f]{12}", TARGET.key())


def test_wheel_is_found_only_under_its_own_key(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTRIBUTARY_CACHE", str(tmp_path))
    folder = tmp_path / "wheels" / TARGET.key()
    folder.mkdir(parents=True)
    (folder / "horovod-0.28.1-cp311-cp311-linux_x86_64.whl").touch()
    assert horovod_target.find_kept_wheel(TARGET) is not None
    assert horovod_target.find_kept_wheel(TARGET._replace(torch="2.13.1")) is None


def test_build_path_has_no_regular_expression_characters(tmp_path, monkeypatch):
    for cache in ("plain", "c++ things"):
        monkeypatch.setenv("DISTRIBUTARY_CACHE", str(tmp_path / cache))
        assert not set("+*?()[]{}^$| ") & set(str(horovod_wheel.build_folder(TARGET)))
    assert "+" in TARGET.torch  # as PyPI's torch names itself


def test_build_folder_of_another_user_is_rejected(tmp_path, monkeypatch):
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


def test_a_build_continues_only_in_a_private_folder(tmp_path):
    for mode, kept in ((0o700, True), (0o755, True), (0o775, False), (0o777, False)):
        folder = tmp_path / f"{mode:o}"
        horovod_wheel.make_private(folder)
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "horovod-0.28.1").mkdir()
        folder.chmod(mode)
        horovod_wheel.make_private(folder)
        assert (folder / "horovod-0.28.1").exists() is kept


@pytest.mark.parametrize(
    ("chosen", "sees_gpu", "has_compiler", "cuda"),
    [
        ("auto", True, True, "13.0"),
        ("auto", False, True, ""),  # CI or an edge node: no GPU
        ("auto", True, False, ""),
        ("nccl", False, True, "13.0"),
        ("cpu", True, True, ""),
    ],
)
def test_the_gpu_build_is_chosen_or_asked_for(chosen, sees_gpu, has_compiler, cuda):
    found = horovod_target.choose_cuda(chosen, cuda="13.0", sees_gpu=sees_gpu, has_compiler=has_compiler)
    assert found == cuda


def test_an_nccl_build_without_its_parts_is_an_error():
    with pytest.raises(SetupError, match=r"GPU=nccl needs torch built for CUDA .* and CUDA's compiler: nvcc"):
        horovod_target.choose_cuda("nccl", cuda="", sees_gpu=False, has_compiler=False)
    with pytest.raises(SetupError, match=r"^GPU=nccl needs CUDA's compiler: nvcc on PATH"):
        horovod_target.choose_cuda("nccl", cuda="13.0", sees_gpu=True, has_compiler=False)


def test_only_the_automatic_choice_falls_back_to_the_cpu(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTRIBUTARY_CACHE", str(tmp_path))
    tried = []

    def build(checkout, target, *, log):
        tried.append(target.gpu)
        if target.gpu:
            raise SetupError("nvcc: unsupported compiler")
        return tmp_path / "wheel"

    monkeypatch.setattr(horovod_wheel, "find_target", lambda checkout: TARGET._replace(gpu="13.0"))
    monkeypatch.setattr(horovod_wheel, "build_wheel", build)
    monkeypatch.setenv("DISTRIBUTARY_GPU", "auto")
    assert horovod_wheel.find_or_build_wheel(tmp_path, log=tmp_path / "log") == tmp_path / "wheel"
    assert tried == ["13.0", ""]
    monkeypatch.setenv("DISTRIBUTARY_GPU", "nccl")
    with pytest.raises(SetupError, match="unsupported compiler"):
        horovod_wheel.find_or_build_wheel(tmp_path, log=tmp_path / "log")
    assert tried == ["13.0", "", "13.0"]


def test_an_unknown_gpu_choice_is_an_error(monkeypatch):
    monkeypatch.setenv("DISTRIBUTARY_GPU", "0")
    with pytest.raises(SetupError, match=r"must be nccl, cpu or auto, got 0"):
        horovod_target.chosen_gpu()


def test_a_gpu_build_links_the_nccl_that_torch_brings(tmp_path, monkeypatch):
    for name in ("HOROVOD_NCCL_HOME", "HOROVOD_NCCL_LIB", "HOROVOD_NCCL_INCLUDE"):
        monkeypatch.delenv(name, raising=False)
    brought = tmp_path / "nvidia" / "nccl"
    (brought / "lib").mkdir(parents=True)
    (brought / "lib" / "libnccl.so.2").touch()
    for _ in range(2):  # an interrupted build continues in its folder
        env = horovod_wheel.build_environment(TARGET._replace(gpu="13.0"), tmp_path, nccl=brought)
    assert (env["HOROVOD_GPU_OPERATIONS"], env["HOROVOD_NCCL_LINK"]) == ("NCCL", "SHARED")
    assert (Path(env["HOROVOD_NCCL_LIB"]) / "libnccl.so").samefile(brought / "lib" / "libnccl.so.2")
    monkeypatch.setenv("HOROVOD_NCCL_HOME", "/usr/local/nccl")
    env = horovod_wheel.build_environment(TARGET._replace(gpu="13.0"), tmp_path, nccl=brought)
    assert "HOROVOD_NCCL_LIB" not in env  # the user's NCCL stands
    assert "HOROVOD_GPU_OPERATIONS" not in horovod_wheel.build_environment(TARGET, tmp_path, nccl=brought)


@pytest.mark.parametrize(
    ("gpu", "library", "accepted"),
    [("13.0", b"", False), ("13.0", b"ncclCommInitRank", True), ("", b"", True)],
)
def test_a_gpu_wheel_must_have_nccl(tmp_path, gpu, library, accepted):
    with zipfile.ZipFile(tmp_path / "horovod-0.28.1-cp311-cp311-linux_x86_64.whl", "w") as wheel:
        wheel.writestr("horovod/torch/mpi_lib_v2.so", b"\0symbols\0" + library)
    target = TARGET._replace(gpu=gpu)
    if accepted:
        horovod_wheel.require_nccl(tmp_path, target)
    else:
        with pytest.raises(SetupError, match=r"for CUDA 13\.0 gave a library without NCCL"):
            horovod_wheel.require_nccl(tmp_path, target)


@pytest.mark.horovod
def test_the_installed_horovod_agrees_about_nccl():
    import horovod.torch

    assert horovod_target.has_nccl(Path(horovod.__file__).parent) == bool(horovod.torch.nccl_built())


def test_a_wheel_without_its_library_is_rejected(tmp_path):
    with zipfile.ZipFile(tmp_path / "horovod-0.28.1-cp311-cp311-linux_x86_64.whl", "w") as wheel:
        wheel.writestr("tmp/build/horovod/torch/mpi_lib_v2.so", b"")  # a build in a path with + did this
    with pytest.raises(SetupError, match="without horovod/torch/mpi_lib_v2"):
        horovod_wheel.require_library(tmp_path)


def test_build_uses_the_chosen_number_of_jobs(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTRIBUTARY_BUILD_JOBS", "3")
    env = horovod_wheel.build_environment(TARGET, tmp_path)
    assert env["MAKEFLAGS"] == "-j3"
    assert (tmp_path / "cxx").read_text().endswith('"$@" -std=c++20\n')
    assert "HOROVOD_GPU_OPERATIONS" not in env
    assert (
        horovod_wheel.build_environment(TARGET._replace(gpu="13.0"), tmp_path)["HOROVOD_GPU_OPERATIONS"]
        == "NCCL"
    )


@pytest.mark.parametrize("chosen", ["two", "0", "-1"])
def test_a_wrong_number_of_build_jobs_is_named(monkeypatch, chosen):
    monkeypatch.setenv("DISTRIBUTARY_BUILD_JOBS", chosen)
    with pytest.raises(SetupError, match=f"must be a number of at least 1, got '{chosen}'"):
        horovod_wheel.choose_num_jobs()


def test_horovod_source_is_pinned_by_checksum():
    assert re.fullmatch(r"horovod==0\.28\.1 --hash=sha256:[0-9a-f]{64}", horovod_target.read_requirement())


@pytest.mark.parametrize(
    ("jar", "coordinates"),
    [
        ("delta-spark_4.2_2.13-4.4.0.jar", ("io.delta", "delta-spark_4.2_2.13", "4.4.0", "")),
        ("s3mock-4.9.1-exec.jar", ("com.adobe.testing", "s3mock", "4.9.1", "exec")),
        ("bcprov-jdk18on-1.78.1.jar", ("org.bouncycastle", "bcprov-jdk18on", "1.78.1", "")),
        ("kafka_2.13-4.1.1.jar", ("org.apache.kafka", "kafka_2.13", "4.1.1", "")),
    ],
)
def test_jar_coordinates_come_from_the_file_name(jar, coordinates):
    assert jars.maven_coordinates(jar) == coordinates


def test_a_pom_names_every_jar_and_excludes_the_rest():
    pom = jars._write_pom("servers", machine.SERVER_JARS)
    assert pom.count("<artifactId>*</artifactId>") == pom.count("<dependency>") == len(machine.SERVER_JARS)
    assert "<artifactId>s3mock</artifactId><version>4.9.1</version><classifier>exec</classifier>" in pom


def test_the_jars_of_s3a_have_the_version_of_spark_s_hadoop():
    import pyspark

    (client,) = (Path(pyspark.__file__).parent / "jars").glob("hadoop-client-api-*.jar")
    version = client.stem.rpartition("-")[2]
    assert f"hadoop-aws-{version}.jar" in machine.S3_JARS
    assert f"hadoop-client-minicluster-{version}.jar" in machine.SERVER_JARS


def test_an_unknown_group_of_jars_lists_the_known_ones(capsys):
    assert jars.main(["s4"]) == 2
    assert "groups: delta, s3, servers, kafka" in capsys.readouterr().err


def test_failed_command_shows_log_tail_and_remedy(tmp_path):
    log = tmp_path / "logs" / "a.log"
    script = "print('No space left on device'); raise SystemExit(3)"
    with pytest.raises(
        SetupError, match=r"(?s)copying: failed with status 3.*No space left.*a\.log.*fix: free some disk"
    ):
        run_command([sys.executable, "-c", script], doing="copying", log=log)


def test_long_command_prints_its_progress(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tools.progress.HEARTBEAT_SECONDS", 0.1)
    script = "import time; print('[ 45%] Building CXX object', flush=True); time.sleep(1)"
    run_command([sys.executable, "-c", script], doing="building Horovod", log=tmp_path / "a.log")
    assert "building Horovod 0:00:00 (45 %)" in capsys.readouterr().out


def test_clock_and_percent():
    assert format_clock(3 * 3600 + 80.9) == "3:01:20"
    assert parse_percent("[  4%] a\n[ 98%] b") == "98 %"
    assert parse_percent("no number") is None
    assert find_remedy("all well") == ""


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


def test_tools_use_no_syntax_newer_than_python_3_9():
    files = [*(CHECKOUT / "tools").glob("*.py"), CHECKOUT / "pipelines" / "machine.py"]
    files.append(CHECKOUT / "pipelines" / "__init__.py")
    assert len(files) > 8
    for file in files:
        ast.parse(file.read_text(encoding="utf-8"), filename=str(file), feature_version=(3, 9))


def test_tools_import_only_the_standard_library():
    code = "import sys; sys.path.insert(0, sys.argv[1]); import tools.setup"
    # -S: without site-packages, as on a system where nothing is installed.
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(CHECKOUT)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
