"""The doctor: the shape of its findings, its exit status, and that it survives what it looks for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.doctor import CHECKS, check_jars, doctor

CHECKOUT = Path(__file__).resolve().parent.parent


def test_doctor_as_json_names_a_broken_checksum_and_has_one_finding_a_check(capsys, tmp_path, monkeypatch):
    from pipelines.spark import DELTA_JARS

    monkeypatch.setenv("DISTRIBUTARY_CACHE", str(tmp_path))
    (tmp_path / "jars").mkdir()
    for name in DELTA_JARS:
        (tmp_path / "jars" / name).write_bytes(b"broken")
    status = doctor(as_json=True)
    answer = json.loads(capsys.readouterr().out)
    assert (status, answer["ok"]) == (1, False)
    assert len(answer["checks"]) == len(CHECKS)
    assert {frozenset(check) for check in answer["checks"]} == {frozenset({"name", "status", "found", "wanted", "fix"})}
    assert {check["status"] for check in answer["checks"]} <= {"ok", "warn", "fail"}
    assert all(check["fix"] for check in answer["checks"] if check["status"] != "ok")
    finding = next(check for check in answer["checks"] if check["name"] == "delta jars")
    assert finding["status"] == "fail"
    assert f"pinned {DELTA_JARS['delta-storage-4.4.0.jar'][:12]}" in finding["found"]


def test_doctor_finds_complete_jars_sound(tmp_path, monkeypatch):
    if check_jars().status != "ok":
        pytest.skip("Delta's jars are not in the cache folder: make setup")
    monkeypatch.setenv("DISTRIBUTARY_CACHE", str(tmp_path))
    assert "missing" in check_jars().found


@pytest.mark.parametrize("flag", [[], ["--json"]])
def test_doctor_works_on_a_python_without_any_package(tmp_path, flag):
    base = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info[1]}"
    code = f"import sys; sys.path.insert(0, {str(CHECKOUT)!r}); from jobs.doctor import doctor; sys.exit(doctor({bool(flag)}))"
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    result = subprocess.run([str(base), "-I", "-S", "-c", code], env=env, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 1, result.stderr
    assert "make setup" in result.stdout
    if flag:
        found = {check["name"]: check["status"] for check in json.loads(result.stdout)["checks"]}
        assert found["packages"] == found["delta jars"] == found["horovod"] == "fail"
