"""The doctor: its findings, its exit status, and its work on broken installations."""

import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.shell import redaction, settings_checks
from jobs.shell.checks import check_horovod, check_jars, check_packages, run_python
from jobs.shell.doctor import CHECKS, doctor, examine
from jobs.shell.settings import load
from jobs.shell.settings_checks import check_slots, check_spark_settings, check_tracking
from jobs.shell.storage_checks import check_storage
from pipelines.machine import DELTA_JARS

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_json_has_one_finding_per_check(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTRIBUTARY_CACHE", str(tmp_path))
    (tmp_path / "jars").mkdir()
    for name in DELTA_JARS:
        (tmp_path / "jars" / name).write_bytes(b"broken")
    status = doctor(as_json=True)
    answer = json.loads(capsys.readouterr().out)
    assert (status, answer["ok"]) == (1, False)
    assert len(answer["checks"]) >= len(CHECKS) + 1  # and one for each client of the storage
    assert {frozenset(check) for check in answer["checks"]} == {
        frozenset({"name", "status", "found", "wanted", "fix"})
    }
    assert {check["status"] for check in answer["checks"]} <= {"ok", "warn", "fail"}
    assert all(check["fix"] for check in answer["checks"] if check["status"] != "ok")
    finding = next(check for check in answer["checks"] if check["name"] == "delta jars")
    assert finding["status"] == "fail"
    assert f"expected {DELTA_JARS['delta-storage-4.4.0.jar']}" in finding["found"]


def test_one_changed_byte_of_a_jar_is_found(tmp_path, monkeypatch):
    checksum = "0163f1eea7894350060624d315234d40c508ab251ba121714e234503045faadd"  # printf jar | sha256sum
    monkeypatch.setattr("pipelines.machine.DELTA_JARS", {"a.jar": checksum})
    monkeypatch.setenv("DISTRIBUTARY_CACHE", str(tmp_path))
    (tmp_path / "jars").mkdir()
    (tmp_path / "jars" / "a.jar").write_bytes(b"jar")
    assert (check_jars().status, check_jars().found) == ("ok", f"1 jars in {tmp_path}/jars")
    (tmp_path / "jars" / "a.jar").write_bytes(b"jaR")
    assert check_jars().status == "fail"
    assert "a.jar has sha256" in check_jars().found
    (tmp_path / "jars" / "a.jar").unlink()
    assert check_jars().found == f"a.jar is missing in {tmp_path}/jars"


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """An environment with five packages, and a checkout with four pins.

    Returns a function that changes a package.
    """
    (tmp_path / "constraints.txt").write_text(
        "# all\na==1.0\nb-b==2.0\nthe-demo==3.0\nunused==4.0\n", encoding="ascii"
    )
    monkeypatch.setattr("jobs.shell.checks.CHECKOUT", tmp_path)
    importlib.import_module("jobs.shell.requirements")  # and `packaging`, which the new path does not have
    monkeypatch.setattr("sys.path", [str(tmp_path / "site")])

    def put(name: str, version: str | None, *requirements: str) -> None:
        for former in (tmp_path / "site").glob(f"{name}-*"):
            shutil.rmtree(former)
        if version is not None:
            lines = [
                f"Name: {name}",
                f"Version: {version}",
                *(f"Requires-Dist: {line}" for line in requirements),
            ]
            folder = tmp_path / "site" / f"{name}-{version}.dist-info"
            folder.mkdir(parents=True)
            (folder / "METADATA").write_text("\n".join(lines) + "\n", encoding="ascii")

    put(
        "distributary",
        "0.1.0",
        "a >=1,<2",
        "packaging",
        "the_demo ==3.0 ; extra == 'demo'",
        "absent ; extra == 'dev'",
        "spark >=4.1,<4.3 ; extra == 'local'",
    )
    put("spark", "4.2")
    put("packaging", "26.3")
    put("a", "1.0+cu130", "B.b >=2 ; python_version >= '3'", "absent ; python_version < '3'")
    put("b_b", "2.0")
    put("the_demo", "3.0")
    return put


def test_packages_as_pinned_are_ok(environment):
    found = check_packages()
    assert (found.status, found.found) == ("ok", "6 packages, none missing or different from its pin")


@pytest.mark.parametrize(
    ("name", "version", "status", "found"),
    [
        ("a", "2.1", "fail", "a 2.1, distributary needs <2,>=1"),
        ("a", "1.1", "warn", "a 1.1, pinned is 1.0"),
        ("a", None, "fail", "a missing, distributary needs it"),
        ("b_b", "2.1", "warn", "b-b 2.1, pinned is 2.0"),
        ("b_b", "1.9", "fail", "b-b 1.9, a needs >=2"),
        ("b_b", None, "fail", "b-b missing, a needs it"),
        ("the_demo", None, "warn", "the-demo missing, distributary[demo] needs it"),
        ("spark", None, "fail", "spark missing, distributary[local] needs it"),
        ("spark", "4.3", "warn", "spark 4.3, distributary[local] needs <4.3,>=4.1"),
        ("unused", "4.1", "warn", "unused 4.1, pinned is 4.0"),
        ("distributary", None, "fail", "distributary missing"),
    ],
)
def test_every_needed_or_pinned_package_is_checked(environment, name, version, status, found):
    environment(name, version, *(["b-b>=2"] if name == "a" else []))
    checked = check_packages()
    assert (checked.status, checked.found, checked.fix) == (status, found, "make setup")


def test_without_horovod_the_finding_names_num_ranks(environment):
    environment("torch", "2.13.0")
    finding = check_horovod()
    assert (finding.status, finding.found) == (
        "warn",
        "not installed; one process can train with finetune.num_ranks=1",
    )
    assert "num_ranks" in load().tree["finetune"]


@pytest.fixture
def masters(tmp_path, monkeypatch):
    """A machine with four cores and no Spark master set."""
    for name in ("SPARK_MASTER", "MASTER", "PYSPARK_SUBMIT_ARGS", "PYSPARK_GATEWAY_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SPARK_CONF_DIR", str(tmp_path))
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("submit", "defaults", "status", "found"),
    [
        ("", "", "ok", "local[2,4], 4 cores here"),  # conf/base.yaml
        ("--master local[1] pyspark-shell", "", "warn", "local[1], 4 cores here"),
        ("--master local pyspark-shell", "", "warn", "local, 4 cores here"),
        ("--master local[*] pyspark-shell", "", "ok", "local[*], 4 cores here"),
        ("--conf spark.master=local[1,4] pyspark-shell", "", "warn", "local[1,4], 4 cores here"),
        ("", "spark.master local[1]", "warn", "local[1], 4 cores here"),
        ("--master yarn pyspark-shell", "spark.master local[1]", "ok", "yarn decides"),
        ("--remote sc://host:15002 pyspark-shell", "", "ok", "sc://host:15002 decides"),
    ],
)
def test_slots_are_those_of_the_session_master(masters, monkeypatch, submit, defaults, status, found):
    monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", submit)
    monkeypatch.setattr("pipelines.spark.DEFAULT_MASTER", "local[1]")  # conf/base.yaml sets another one
    (masters / "spark-defaults.conf").write_text(defaults + "\n", encoding="ascii")
    slots = check_slots(load())
    assert (slots.status, slots.found, slots.wanted) == (
        status,
        found,
        "one slot for each of finetune.num_ranks=2",
    )
    assert slots.fix == ("finetune.num_ranks=1, or a master with 2 slots" if status == "warn" else "")


def test_one_core_has_too_few_slots(masters, monkeypatch):
    monkeypatch.setenv("SPARK_MASTER", "yarn")  # no session reads this variable
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0}, raising=False)
    slots = check_slots(load())
    assert (slots.status, slots.found) == ("warn", "local[2,4], 1 cores here")


@pytest.mark.parametrize("place", ["the configuration", "spark-defaults.conf", "the launcher"])
def test_a_setting_that_breaks_tables_on_s3_is_found_without_a_session(masters, monkeypatch, place):
    name = "spark.hadoop.delta.enableFastS3AListFrom"
    if place == "spark-defaults.conf":
        (masters / "spark-defaults.conf").write_text(f"{name} true\n", encoding="ascii")
    if place == "the launcher":
        monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", f"--conf {name}=true pyspark-shell")
    given = [f"spark={{{name}: 'true'}}"] if place == "the configuration" else []
    monkeypatch.setattr("jobs.shell.doctor.CHECKS", ())
    found = {check.name: check for check in examine(lambda: load(overrides=given))}["spark settings"]
    assert (found.status, found.fix) == ("fail", "remove the setting")
    assert found.found.startswith(f"{name} must not be true: Delta 4.4.0 then calls a method of S3A")


def test_cluster_mode_of_an_edge_node_is_no_failure(masters, monkeypatch):
    """Where spark-submit moves drivers to the cluster, spark-defaults.conf says so on every machine."""
    name = "spark.submit.deployMode"
    (masters / "spark-defaults.conf").write_text(f"{name} cluster\nspark.master yarn\n", encoding="ascii")
    found = check_spark_settings(load())
    assert (found.status, found.found.partition(",")[0]) == ("warn", f"{name} is cluster")
    assert "start the job with spark-submit --deploy-mode cluster" in found.fix
    monkeypatch.setattr("pipelines.stores_check.check_store", lambda root: [])  # Python's clients work
    (hadoop,) = check_storage(load(overrides=["root=s3a://lake/x"]))
    assert (hadoop.name, hadoop.status) == ("storage Hadoop", "warn")
    assert hadoop.found.startswith(f"not tried: {name} is cluster, and the doctor's driver runs here")
    submit = re.fullmatch(r"PYSPARK_SUBMIT_ARGS='(.*)' distributary doctor", hadoop.fix)
    monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", submit[1])
    assert check_spark_settings(load()).status == "ok"
    monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", "--conf delta.enableFastS3AListFrom=true pyspark-shell")
    assert check_spark_settings(load()).status == "fail"  # the failure is shown, not the warning


@pytest.mark.parametrize("name", ["spark.submit.deployMode", "spark.hadoop.delta.enableFastS3AListFrom"])
def test_a_spark_setting_without_a_value_is_one_finding(masters, monkeypatch, name):
    monkeypatch.setattr("jobs.shell.doctor.CHECKS", ())
    (found,) = examine(lambda: load(overrides=[f"spark={{{name}: null}}"]))
    assert (found.name, found.status, found.fix) == ("configuration", "fail", "correct the configuration")
    assert f"each with one value, such as spark.driver.memory: 4g; got {name}: None" in found.found


def test_ordinary_spark_settings_are_ok(masters):
    assert check_spark_settings(load()).status == "ok"


def test_each_client_of_the_storage_has_its_line(tmp_path):
    checks = list(check_storage(load(overrides=[f"root={tmp_path}"])))
    assert [(check.name, check.status) for check in checks] == [
        ("storage Arrow and obstore", "ok"),
        ("storage delta-rs", "ok"),
    ]
    assert list(tmp_path.iterdir()) == []
    (absent,) = check_storage(load(overrides=[f"root={tmp_path}/absent"]))
    assert (absent.status, absent.found.endswith("the first stage creates it")) == ("ok", True)


def test_a_store_that_does_not_answer_is_a_finding_with_a_fix():
    keys = ["credentials=keys", "access_key=a", "secret_key=hunter22"]
    overrides = ["root=s3a://lake/x", "storage.s3.endpoint=http://127.0.0.1:1"]
    (check,) = check_storage(load(overrides=[*overrides, *(f"storage.s3.{key}" for key in keys)]))
    assert (check.name, check.status) == ("storage Arrow and obstore", "fail")
    assert "look failed at s3a://lake/x on " in check.found
    assert "start the storage, or correct its address" in check.fix
    assert "hunter22" not in str(check)


@pytest.mark.parametrize("flag", [[], ["--json"]])
def test_doctor_works_on_a_python_without_any_package(tmp_path, flag):
    base = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info[1]}"
    code = f"import sys; sys.path.insert(0, {str(CHECKOUT)!r}); from jobs.shell.doctor import doctor; "
    code += f"sys.exit(doctor({bool(flag)}))"
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    result = subprocess.run(
        [str(base), "-I", "-S", "-c", code], env=env, capture_output=True, text=True, cwd=tmp_path
    )
    assert result.returncode == 1, result.stderr
    assert "make setup" in result.stdout
    if flag:
        found = {check["name"]: check["status"] for check in json.loads(result.stdout)["checks"]}
        assert found["packages"] == found["delta jars"] == found["horovod"] == "fail"


def check_store(uri):
    return check_tracking(load(overrides=[f"tracking.uri={uri}"]))


def test_the_mlflow_store_is_examined(tmp_path):
    assert check_store(f"sqlite:///{tmp_path}/new.db").status == "ok"
    assert list(tmp_path.iterdir()) == []  # the doctor creates nothing
    found = check_store("http://127.0.0.1:9")  # the discard port: no server listens
    assert found.status == "fail"
    assert "http://127.0.0.1:9 does not answer" in found.found
    assert found.fix == "start the server: mlflow server --port 9"


def test_the_store_of_the_given_configuration_is_examined(monkeypatch, tmp_path):
    """Not the one of MLFLOW_TRACKING_URI, which no stage would use."""
    monkeypatch.setattr("jobs.shell.doctor.CHECKS", ())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    given = [f"tracking.uri=sqlite:///{tmp_path}/mine.db", f"root={tmp_path}", "finetune.num_ranks=999"]
    found = {check.name: check for check in examine(lambda: load(overrides=given))}
    assert (found["mlflow store"].status, found["mlflow store"].found) == (
        "ok",
        f"sqlite:///{tmp_path}/mine.db will be created",
    )
    assert found["spark slots"].wanted == "one slot for each of finetune.num_ranks=999"


def test_a_wrong_configuration_is_one_finding(monkeypatch):
    monkeypatch.setattr("jobs.shell.doctor.CHECKS", ())
    (found,) = examine(lambda: load(recipe="custmer_service"))
    assert (found.name, found.status, found.fix) == ("configuration", "fail", "correct the configuration")
    assert "did you mean customer_service?" in found.found


def test_the_password_of_a_store_is_on_no_command_line(monkeypatch, capsys):
    """Nothing listens on the port: the check fails with an error of the database's client."""
    commands, run = [], subprocess.run

    def watch(command, **options):
        commands.append(command)
        return run(command, **options)

    monkeypatch.setattr(redaction, "_known", set())
    monkeypatch.setattr("jobs.shell.doctor.CHECKS", ())
    monkeypatch.setattr("jobs.shell.checks.subprocess.run", watch)
    uri = "postgresql://me:hunter2@127.0.0.1:9/db"
    assert doctor(True, lambda: load(overrides=[f"tracking.uri={uri}"])) == 1
    (command,) = [each for each in commands if settings_checks.CONNECT in each]
    assert "hunter2" not in " ".join(command)
    assert "hunter2" not in capsys.readouterr().out
    assert run_python("import os; assert os.environ['GIVEN'] == 'hunter2'", GIVEN="hunter2") == ""
