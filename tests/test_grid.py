"""The five words: each has its package, its job, its section of the configuration and its tests."""

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
        code = [
            line
            for line in path.read_text(encoding="utf-8").splitlines()
            if line.startswith(("import ", "from "))
        ]
        assert code == [], f"{path} imports {code}"


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
