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
    """The cell without its MAGIC lines, which stay as empty lines: line numbers of a traceback remain right."""
    return "\n".join("" if line.startswith(MAGIC) else line for line in cell.split("\n"))


@pytest.fixture(scope="module")
def shown(flow):
    """The names that the cells left and everything they printed."""
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


def test_all_five_stages_are_called_in_order_and_have_nothing_left_to_do(shown):
    assert list(shown.outcomes) == ["corpus", "dataset", "finetune", "registry", "scoring"]
    assert [outcome.stage for outcome in shown.outcomes.values() if outcome.ran] == []
    assert all(f"{stage} up to date" in shown.printed for stage in shown.outcomes)


def test_counts_by_split_and_reason_reconcile_with_the_files(shown):
    assert shown.records_in == shown.records_out > 0
    assert ("train", "exact_duplicate", 1) in [tuple(row) for row in shown.counts.collect()]
    (record,) = shown.broken.collect()
    assert (record["file"], record["raw"].strip()) == ("train.csv", "one field too many,card_arrival,surplus")


def test_a_sequence_is_traced_to_the_characters_of_its_document(shown):
    (segment,) = shown.traced.collect()
    (document,) = shown.documents.where(f"doc_id = '{segment['doc_id']}'").collect()
    assert segment["characters"] == document["text"][segment["char_start"] : segment["char_end"]] != ""
    assert segment["num_tokens"] <= shown.sequence.first()["num_tokens"]


def test_the_run_shows_its_metrics_its_pictures_and_the_rows_that_made_it(shown):
    assert 0 < shown.metrics["final/accuracy"] <= 1
    assert "final/accuracy" in shown.printed
    (image,) = shown.loss_curve.axes[0].images
    assert image.get_array().std() > 0  # not a blank page
    inputs = {entry["table"]: entry for entry in shown.made_from["inputs"]}
    assert (inputs["documents"]["digest"], inputs["sequences"]["digest"]) == (
        shown.digest_again,
        shown.sequences_pin.digest,
    )


def test_the_verdict_belongs_to_the_version_that_scored(shown):
    assert (shown.verdict["promote"], shown.verdict["challenger"]["model_version"]) == (
        True,
        shown.champion.version,
    )
    assert shown.champion.run_id == shown.run_id


def test_the_most_confused_classes_are_drawn(shown):
    wrong = Counter(
        (row["label"], row["prediction"])
        for row in shown.predictions.collect()
        if row["label"] != row["prediction"]
    )
    assert wrong  # the tiny model errs
    bars = [bar.get_width() for bar in shown.axes.patches]
    assert bars == [number for _, number in wrong.most_common(12)]


def test_two_texts_one_of_them_chinese_are_answered(shown):
    assert list(shown.answers.columns) == ["text", "prediction", "score"]
    assert len(shown.answers) == 2
    assert "我的卡" in shown.answers["text"][1]
    assert set(shown.answers["prediction"]) <= set(INTENTS)
    assert shown.answers["score"].between(1 / len(INTENTS), 1).all()  # the largest of 4 probabilities


def test_every_figure_is_closed(shown):
    assert shown.plt.get_fignums() == []


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
