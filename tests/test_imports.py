"""Imports: the contracts of setup.cfg hold, no module imports itself in a circle, stage jobs stay short."""

import ast
import shutil
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
STAGES = ("corpus", "dataset", "finetune", "registry", "scoring", "run")


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    if not program.exists():
        pytest.skip("import-linter is not installed: the [dev] extra")
    # PYTHONPATH: the packages of that folder, not those of an editable install.
    env = {"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin", "PYTHONIOENCODING": "utf-8"}
    return subprocess.run([str(program), "--no-cache"], cwd=folder, env=env, capture_output=True, text=True)


def list_imports(tree: ast.AST, package: str, modules: set[str]) -> set[str]:
    """Our modules that a module imports when it runs, in functions too; not under `if TYPE_CHECKING`."""
    found = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            found |= {name if name in modules else base for name in (f"{base}.{a.name}" for a in node.names)}
        found |= list_imports(node, package, modules)
    return found & modules


def find_cycle(folder: Path) -> list[str]:
    """The modules of an import cycle below `folder`, the first one also last; empty if there is none."""
    files = {}
    for file in [*folder.glob("jobs/**/*.py"), *folder.glob("pipelines/**/*.py")]:
        parts = file.relative_to(folder).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    graph = {
        name: list_imports(
            ast.parse(file.read_text(encoding="utf-8")),
            name if file.name == "__init__.py" else name.rpartition(".")[0],
            set(files),
        )
        for name, file in files.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    assert len(graph) > 50 or folder != CHECKOUT, "the modules were found"
    return []


def test_contracts_are_kept():
    result = lint_imports(CHECKOUT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "11 kept, 0 broken" in result.stdout


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


def test_no_module_imports_itself_in_a_circle():
    assert find_cycle(CHECKOUT) == []


@pytest.mark.parametrize(
    ("line", "is_cycle"),
    [
        ("import jobs.a", True),
        ("from jobs import a", True),
        ("from jobs.a import f", True),
        ("from . import a", True),
        ("from .a import f", True),
        ("def g():\n    from jobs.a import f", True),
        ("def g():\n    if 1:\n        import jobs.a as x", True),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from jobs.a import f", False),
        ("import jobs.c", False),
    ],
)
def test_a_circle_is_found_wherever_it_closes(tmp_path, line, is_cycle):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "a.py").write_text("from jobs.b import g\n")
    (tmp_path / "jobs" / "b.py").write_text(line + "\n")
    (tmp_path / "jobs" / "c.py").write_text("import os\n")
    assert set(find_cycle(tmp_path)) == ({"jobs.a", "jobs.b"} if is_cycle else set())


@pytest.mark.parametrize("stage", STAGES)
def test_stage_jobs_stay_under_eighty_lines(stage):
    text = (CHECKOUT / "jobs" / f"{stage}.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 80


def test_jobs_are_the_stages_and_nothing_else():
    files = {path.stem for path in (CHECKOUT / "jobs").glob("*.py")}
    assert files == {"__init__", *STAGES}
