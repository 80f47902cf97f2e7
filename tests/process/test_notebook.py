"""notebooks/flow.py, cell by cell, on the small flow."""

import ast
import contextlib
import io
import json
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl
import pytest

from tests.conftest import INTENTS, flow_overrides

CHECKOUT = Path(__file__).parents[2]
NOTEBOOK = CHECKOUT / "notebooks" / "flow.py"
HEADER, NEXT_CELL, MAGIC = "# Databricks notebook source", "\n# COMMAND ----------\n", "# MAGIC"


def cells() -> list[str]:
    return NOTEBOOK.read_text(encoding="utf-8").removeprefix(HEADER).split(NEXT_CELL)


def code_of(cell: str) -> str:
    """The cell with empty lines instead of its MAGIC lines, so that line numbers in a traceback are right."""
    return "\n".join("" if line.startswith(MAGIC) else line for line in cell.split("\n"))


@pytest.fixture(scope="module")
def notebook(flow):
    """The names that the cells defined and everything they printed."""
    names, printed = {"__name__": "notebook"}, io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        mpl.use("Agg")
        patch.delenv("DISPLAY", raising=False)
        patch.chdir(CHECKOUT)
        patch.setattr(sys, "path", [*sys.path])  # MLflow adds the code that travels with the model
        patch.setenv("DISTRIBUTARY_NOTEBOOK_RECIPE", "")
        patch.setenv("DISTRIBUTARY_NOTEBOOK_OVERRIDES", json.dumps(flow_overrides(flow.folder)))
        for number, cell in enumerate(cells(), start=1):
            exec(compile(code_of(cell), f"{NOTEBOOK.name}, cell {number}", "exec"), names)
    ours = {name: value for name, value in names.items() if not name.startswith("__")}
    return SimpleNamespace(printed=printed.getvalue(), **ours)


def test_all_five_stages_are_called_in_order_and_have_nothing_left_to_do(notebook):
    assert list(notebook.outcomes) == ["corpus", "dataset", "finetune", "registry", "scoring"]
    assert [outcome.stage for outcome in notebook.outcomes.values() if outcome.ran] == []
    assert all(f"{stage} up to date" in notebook.printed for stage in notebook.outcomes)


def test_counts_by_split_and_reason_reconcile_with_the_files(notebook):
    assert notebook.records_in == notebook.records_out > 0
    assert ("train", "exact_duplicate", 1) in [tuple(row) for row in notebook.counts.collect()]
    (record,) = notebook.broken.collect()
    assert (record["file"], record["raw"].strip()) == ("train.csv", "one field too many,card_arrival,surplus")


def test_a_sequence_is_traced_to_the_characters_of_its_document(notebook):
    (segment,) = notebook.traced.collect()
    (document,) = notebook.documents.where(f"doc_id = '{segment['doc_id']}'").collect()
    assert segment["characters"] == document["text"][segment["char_start"] : segment["char_end"]] != ""
    assert segment["num_tokens"] <= notebook.sequence.first()["num_tokens"]


def test_the_run_shows_its_metrics_its_pictures_and_the_rows_that_made_it(notebook):
    assert 0 < notebook.metrics["final/accuracy"] <= 1
    assert "final/accuracy" in notebook.printed
    (image,) = notebook.loss_curve.axes[0].images
    assert image.get_array().std() > 0  # not a blank page
    inputs = {entry["table"]: entry for entry in notebook.made_from["inputs"]}
    assert (inputs["documents"]["digest"], inputs["sequences"]["digest"]) == (
        notebook.digest_again,
        notebook.sequences_pin.digest,
    )


def test_the_verdict_belongs_to_the_version_that_scored(notebook):
    assert (notebook.verdict["promote"], notebook.verdict["challenger"]["model_version"]) == (
        True,
        notebook.champion.version,
    )
    assert notebook.champion.run_id == notebook.run_id


def test_the_most_confused_classes_are_drawn(notebook):
    wrong = Counter(
        (row["label"], row["prediction"])
        for row in notebook.predictions.collect()
        if row["label"] != row["prediction"]
    )
    assert wrong  # the tiny model errs
    bars = [bar.get_width() for bar in notebook.axes.patches]
    assert bars == [number for _, number in wrong.most_common(12)]


def test_two_texts_one_of_them_chinese_are_answered(notebook):
    assert list(notebook.answers.columns) == ["text", "prediction", "score"]
    assert len(notebook.answers) == 2
    assert "我的卡" in notebook.answers["text"][1]
    assert set(notebook.answers["prediction"]) <= set(INTENTS)
    assert notebook.answers["score"].between(1 / len(INTENTS), 1).all()  # the largest of 4 probabilities


def test_every_figure_is_closed(notebook):
    assert notebook.plt.get_fignums() == []


def test_its_cells_are_in_databricks_format_code_or_markdown_never_both():
    assert NOTEBOOK.read_text(encoding="utf-8").startswith(f"{HEADER}\n")
    assert len(cells()) > 20
    for cell in cells():
        lines = [line for line in cell.strip("\n").split("\n") if line]
        magic = [line for line in lines if line.startswith(MAGIC)]
        assert lines, "empty cell"
        assert magic in ([], lines), cell
        assert not magic or magic[0] == f"{MAGIC} %md", cell


def test_it_defines_nothing_and_loops_over_nothing():
    logic = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.For, ast.While, ast.Try)
    tree = ast.parse(NOTEBOOK.read_text(encoding="utf-8"))
    assert [
        f"line {node.lineno}: {type(node).__name__}" for node in ast.walk(tree) if isinstance(node, logic)
    ] == []
