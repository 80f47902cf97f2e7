"""The grid: five words in five places, and every task in all of its places."""

import ast
import sys
from pathlib import Path
from typing import Annotated

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

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


def test_a_task_has_its_three_places():
    from jobs.dataset import Config
    from pipelines.dataset.examples.table import EXAMPLES
    from pipelines.finetune.tasks.table import TASKS

    assert len(TASKS) >= 2
    assert sorted(EXAMPLES) == sorted(TASKS)
    field = Config.model_fields["task"]
    checked = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    accepts = TypeAdapter(checked)
    assert [accepts.validate_python(name) for name in TASKS] == list(TASKS)
    with pytest.raises(ValidationError):
        accepts.validate_python("no_such_task")


def test_the_files_of_a_task_carry_its_name():
    from pipelines.finetune.tasks.table import TASKS

    for name in TASKS:
        for folder in ("dataset/examples", "finetune/tasks"):
            assert (CHECKOUT / "pipelines" / folder / f"{name}.py").is_file()


def test_every_task_names_a_known_metric():
    from pipelines.finetune.models.architecture import ModelSpec, RetrievalRules
    from pipelines.finetune.tasks.table import TASKS
    from pipelines.metrics import METRICS
    from pipelines.scoring.evaluate import SUMS

    for name, task in TASKS.items():
        masking = {"mask_token_id": 1, "vocab_size": 8, "mask_fraction": 0.15}
        own = {**masking, "retrieval": RetrievalRules(), "label_threshold": 0.5}
        spec = ModelSpec(task=name, labels=("a", "b"), max_tokens=8, base="scratch", tokenizer="t", **own)
        metric = METRICS[task(spec).metric]
        assert set(metric.sums) <= set(SUMS), (
            f"scoring can't compute {metric.name}, so the gate can't judge {name}"
        )


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
    assert {name: length for name, length in lengths.items() if length > 300} == {}
