"""The console command: its help, what it loads, and a doctor that works where libraries are broken."""

import configparser
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.run import STAGES
from jobs.shell.command import EXAMPLE_KEYS, format_help
from jobs.shell.settings import load
from tests.conftest import flow_overrides

CHECKOUT = Path(__file__).resolve().parents[2]
HEAVY = {
    "torch", "transformers", "tokenizers", "mlflow", "pyspark", "delta", "deltalake", "pyarrow", "pandas",
    "matplotlib", "horovod", "numpy",
}  # fmt: skip


def run_cli(
    *words: str, folder: Path, shadowed: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The command, with the modules of `shadowed` (name -> code) before the real ones on the path."""
    for name, code in (shadowed or {}).items():
        (folder / f"{name}.py").write_text(code, encoding="ascii")
    path = os.pathsep.join([str(folder), str(CHECKOUT)])
    env = {**os.environ, "PYTHONPATH": path, "COLUMNS": "300"}
    command = [sys.executable, "-m", "jobs.shell.cli", *words]
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True)


def list_loaded(*words: str) -> set[str]:
    """Heavy packages that a command has loaded when it ends."""
    program = (
        "import sys\nfrom jobs.shell.cli import app\n"
        f"sys.argv = ['distributary', *{list(words)!r}]\n"
        "try:\n    app()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        f"print('LOADED', *sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    )
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    answer = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return set(answer.stderr.rpartition("LOADED")[2].split())


def test_help_and_config_load_no_heavy_library():
    # One process per kind of command: they differ in what they import, not in the stage.
    assert list_loaded("--help") == list_loaded("--version") == set()
    assert list_loaded("finetune", "--help") == list_loaded("corpus", "--help") == set()
    assert list_loaded("config", "--recipe", "customer_service") == set()


def test_a_run_with_nothing_new_loads_no_engine(flow):
    command = ("run", *flow_overrides(flow.folder))
    assert not list_loaded(*command) & {"torch", "transformers", "horovod"}
    # The first run keeps the answers of the store, which MLflow gave.
    assert not list_loaded(*command) & {"torch", "transformers", "horovod", "mlflow", "pyspark"}


def test_a_driver_with_work_to_do_loads_no_torch():
    modules = ("finetune.driver", "registry.runs.training", "registry.versions.register", "scoring.compare")
    program = (
        f"import sys, {', '.join(f'pipelines.{name}' for name in modules)}, pipelines.scoring.serve\n"
        "print(sorted({'torch', 'transformers', 'pyspark', 'mlflow'} & set(sys.modules)))"
    )
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    loaded = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)
    assert loaded.stdout.splitlines()[-1:] == ["['mlflow', 'pyspark']"], loaded.stderr


def test_the_list_of_heavy_libraries_is_checked_at_all():
    program = "import sys, pipelines.pin; print(sorted({'deltalake', 'torch'} & set(sys.modules)))"
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    loaded = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "['deltalake']"


def test_help_lists_every_command(tmp_path):
    answer = run_cli("--help", folder=tmp_path)
    assert answer.returncode == 0, answer.stderr
    listed = answer.stdout.partition("Commands:")[2].splitlines()
    names = [line.split()[0] for line in listed if line.strip()]
    others = ["search", "bundle", "config", "doctor", "tables", "trace", "undo", "queue"]
    assert names == ["run", *STAGES, *others]
    assert not any(line.rstrip().endswith("...") for line in listed)


def test_the_version_is_that_of_the_package(tmp_path):
    answer = run_cli("--version", folder=tmp_path)
    declared = configparser.ConfigParser()
    declared.read(CHECKOUT / "setup.cfg")
    assert answer.stdout == f"distributary {declared['metadata']['version']}\n", answer.stderr


def test_help_of_a_stage_shows_reads_writes_and_examples(tmp_path):
    answer = run_cli("dataset", "--help", folder=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "Reads the documents" in answer.stdout
    assert "Writes sequences" in answer.stdout
    lines = answer.stdout.splitlines()
    assert "    distributary dataset --recipe customer_service --dry-run" in lines


@pytest.mark.parametrize("name", ["run", *STAGES])
def test_examples_of_the_help_are_valid(name):
    module = sys.modules["jobs.run"] if name == "run" else STAGES[name]
    assert EXAMPLE_KEYS[name] in format_help(module.__doc__, name)
    settings = load(recipe="customer_service", overrides=EXAMPLE_KEYS[name].split())
    settings.sections({stage: job.Config for stage, job in STAGES.items()})


def test_doctor_names_a_torch_that_does_not_load(tmp_path):
    broken = {"torch": "raise OSError('libtorch_cpu.so: cannot open shared object file')"}
    answer = run_cli("doctor", "--json", shadowed=broken, folder=tmp_path)
    assert answer.returncode == 1, answer.stderr
    assert "Traceback" not in answer.stderr
    findings = {check["name"]: check for check in json.loads(answer.stdout)["checks"]}
    assert findings["imports"]["status"] == "fail"
    assert findings["imports"]["found"] == "OSError: libtorch_cpu.so: cannot open shared object file"
    assert findings["imports"]["fix"] == "rm -r .venv, then make setup"
    assert findings["packages"]["status"] != "fail"  # torch is installed, and of the right version


def test_doctor_works_without_typer_rich_and_spark(tmp_path):
    broken = dict.fromkeys(
        ("typer", "rich", "pyspark", "mlflow"), "raise RuntimeError(f'{__name__} is broken')"
    )
    answer = run_cli("doctor", shadowed=broken, folder=tmp_path)
    assert answer.returncode == 1, answer.stderr
    assert "Traceback" not in answer.stderr
    lines = {line.split("  ")[0]: line for line in answer.stdout.splitlines()}
    assert "fail  RuntimeError: typer is broken; fix: rm -r .venv, then make setup" in lines["imports"]
    assert "  ok  " in lines["delta jars"]  # files and checksums need no package


def test_other_commands_name_the_broken_library(tmp_path):
    broken = {"typer": "raise ImportError('typer is broken')"}
    answer = run_cli("config", shadowed=broken, folder=tmp_path)
    assert answer.returncode == 1
    assert answer.stderr.splitlines()[:2] == [
        "error ImportError: typer is broken",
        "run: distributary doctor",
    ]
