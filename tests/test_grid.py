"""The five words: each has its package, its job, its section of the configuration and its tests."""

import ast
import sys
from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parent.parent
WORDS = ("corpus", "dataset", "finetune", "registry", "scoring")


def test_words_sort_in_data_order():
    assert sorted(WORDS) == list(WORDS)


@pytest.mark.parametrize("word", WORDS)
def test_word_has_its_five_places(word):
    base = yaml.safe_load((CHECKOUT / "conf" / "base.yaml").read_text(encoding="utf-8"))
    assert (CHECKOUT / "pipelines" / word / "__init__.py").is_file()
    assert (CHECKOUT / "jobs" / f"{word}.py").is_file()
    assert isinstance(base.get(word), dict), f"conf/base.yaml has no section {word}"
    assert list((CHECKOUT / "tests" / word).glob("test_*.py")), f"tests/{word} has no tests"


def test_no_sixth_stage_hides_in_pipelines():
    folders = {path.parent.name for path in (CHECKOUT / "pipelines").glob("*/__init__.py")}
    assert folders == set(WORDS)


@pytest.mark.parametrize("word", WORDS)
def test_stage_packages_re_export_nothing(word):
    for path in (CHECKOUT / "pipelines" / word).rglob("__init__.py"):
        imported = {
            name
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            for name in imported_modules(node)
        }
        assert imported <= sys.stdlib_module_names, f"{path} imports {imported}"


def imported_modules(node):
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[0] for alias in node.names]
    return [(node.module or "").partition(".")[0]] if isinstance(node, ast.ImportFrom) else []


def test_files_stay_short_enough_to_read_in_one_sitting():
    sources = [
        path for folder in ("pipelines", "jobs", "tools") for path in (CHECKOUT / folder).rglob("*.py")
    ]
    lengths = {
        str(path.relative_to(CHECKOUT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in sources
    }
    assert len(lengths) > 20  # the folders were found
    assert {name: length for name, length in lengths.items() if length > 310} == {}
