"""The direction of imports and the one home of each heavy package: the contracts of setup.cfg hold."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    if not program.exists():
        pytest.skip("import-linter is not installed: the [dev] extra")
    # PYTHONPATH: the packages of that folder, not those of an editable install.
    env = {"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin", "PYTHONIOENCODING": "utf-8"}
    return subprocess.run([str(program), "--no-cache"], cwd=folder, env=env, capture_output=True, text=True)


def test_contracts_are_kept():
    result = lint_imports(CHECKOUT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "6 kept, 0 broken" in result.stdout


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("pipelines/corpus/clean.py", "import pipelines.scoring.predict", "imports run one way"),
        ("pipelines/dataset/reader.py", "import pyspark.sql", "pyspark only where rows move"),
        ("pipelines/corpus/clean.py", "import torch.nn", "torch and transformers only where models live"),
        (
            "pipelines/scoring/batch.py",
            "import mlflow",
            "mlflow only in the registry and the model's own script",
        ),
    ],
)
def test_a_breach_is_seen(tmp_path, file, line, contract):
    for name in ("pipelines", "jobs"):
        shutil.copytree(CHECKOUT / name, tmp_path / name)
    shutil.copy(CHECKOUT / "setup.cfg", tmp_path)
    with (tmp_path / file).open("a", encoding="utf-8") as stream:
        stream.write(f"\n{line}\n")
    result = lint_imports(tmp_path)
    assert result.returncode == 1
    assert f"{contract} BROKEN" in " ".join(result.stdout.split())
