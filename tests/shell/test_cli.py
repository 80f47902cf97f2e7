"""The console command: all commands in its help, and a doctor that answers where the libraries do not load."""

import json
import os
import subprocess
import sys
from pathlib import Path

COMMAND = str(Path(sys.executable).with_name("distributary"))


def console(*words: str, shadowed: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """The installed command, with the modules of `shadowed` (name -> code) before the real ones on the path."""
    for name, code in shadowed.items():
        (folder / f"{name}.py").write_text(code, encoding="ascii")
    env = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "300"}
    return subprocess.run([COMMAND, *words], env=env, cwd=folder, capture_output=True, text=True)


def test_doctor_names_a_torch_that_does_not_load(tmp_path):
    broken = {"torch": "raise OSError('libtorch_cpu.so: cannot open shared object file')"}
    answer = console("doctor", "--json", shadowed=broken, folder=tmp_path)
    assert answer.returncode == 1, answer.stderr
    assert "Traceback" not in answer.stderr
    findings = {check["name"]: check for check in json.loads(answer.stdout)["checks"]}
    assert findings["imports"]["status"] == "fail"
    assert findings["imports"]["found"] == "OSError: libtorch_cpu.so: cannot open shared object file"
    assert findings["imports"]["fix"] == "rm -r .venv, then make setup"
    assert findings["packages"]["status"] != "fail"  # torch is installed, and of the right version


def test_doctor_needs_neither_its_own_command_line_nor_its_table_nor_spark(tmp_path):
    broken = dict.fromkeys(
        ("typer", "rich", "pyspark", "mlflow"), "raise RuntimeError(f'{__name__} is broken')"
    )
    answer = console("doctor", shadowed=broken, folder=tmp_path)
    assert answer.returncode == 1, answer.stderr
    assert "Traceback" not in answer.stderr
    lines = {line.split("  ")[0]: line for line in answer.stdout.splitlines()}
    assert "fail  RuntimeError: typer is broken; fix: rm -r .venv, then make setup" in lines["imports"]
    assert "pyspark is broken" in lines["delta jars"]


def test_any_other_command_names_what_does_not_load_and_sends_to_the_doctor(tmp_path):
    answer = console("config", shadowed={"typer": "raise ImportError('typer is broken')"}, folder=tmp_path)
    assert answer.returncode == 1
    assert answer.stderr.splitlines()[:2] == [
        "error ImportError: typer is broken",
        "run: distributary doctor",
    ]


def test_help_lists_every_command(tmp_path):
    answer = console("--help", shadowed={}, folder=tmp_path)
    assert answer.returncode == 0, answer.stderr
    listed = [
        line.split()[0] for line in answer.stdout.partition("Commands:")[2].splitlines() if line.strip()
    ]
    assert listed == [
        "run",
        "corpus",
        "dataset",
        "finetune",
        "registry",
        "scoring",
        "config",
        "doctor",
        "undo",
    ]
