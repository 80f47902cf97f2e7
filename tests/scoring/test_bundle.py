"""Scoring with a bundle: each row by the adapter that it names, as that adapter alone predicts it."""

from types import SimpleNamespace

import pytest
from pyspark.sql import functions as F

from pipelines.finetune.models.adapter import Adapter
from pipelines.finetune.models.architecture import Architecture, read_spec
from pipelines.finetune.models.build import build_model
from pipelines.finetune.models.bundle import write_bundle
from pipelines.finetune.models.folder import load_model, save_model
from pipelines.scoring.adapters import name_adapters
from pipelines.scoring.bundle import BundlePredictor
from pipelines.scoring.predict import Predictor
from pipelines.scoring.pull import Place
from tests.finetune.test_adapter_kinds import move
from tests.scoring.test_batch import ROWS, as_documents, score

MODEL = SimpleNamespace(name="desk", version=3, run_id="r1")
TEXTS = [f"{text} {number}"[:40] for number, (_, text, _) in enumerate(ROWS)]
WANTED = [("intents", "mood", None, "moood")[number % 4] for number in range(len(TEXTS))]


@pytest.fixture(scope="module")
def folders(classifier_folder, tmp_path_factory):
    """Two adapters on the classifier, and their bundle."""
    root, loaded = tmp_path_factory.mktemp("bundle"), load_model(classifier_folder)
    for seed, (name, kind) in enumerate((("intents", "lora"), ("mood", "bottleneck"))):
        architecture = Architecture(
            base=str(classifier_folder), adapter=Adapter(kind=kind, rank=4, merge=False)
        )
        module = build_model(
            architecture, loaded.spec, vocab_size=loaded.tokenizer.get_vocab_size(), seed=seed
        )
        module.head.weight.data *= 20  # the classes of random logits would all tie
        save_model(move(module), loaded.tokenizer.to_str(), read_spec(classifier_folder), root / name)
    folders = {name: root / name for name in ("intents", "mood")}
    write_bundle(folders, {name: {} for name in folders}, root / "bundle")
    return {**folders, "bundle": root / "bundle"}


def alone(folders, name):
    """What the adapter alone says to its rows."""
    mine = [text for text, wanted in zip(TEXTS, WANTED, strict=True) if wanted == name]
    return Predictor.load(folders[name]).predict(mine)


def test_each_row_is_predicted_by_its_adapter_as_alone(folders):
    predictor = BundlePredictor.load(folders["bundle"])
    found = predictor.predict(TEXTS, WANTED)
    for name in ("intents", "mood"):
        mine = [each for each, wanted in zip(found, WANTED, strict=True) if wanted == name]
        assert mine == alone(folders, name)
        assert len(mine) == 8
    assert predictor.predict(TEXTS, ["intents"] * 32) != predictor.predict(TEXTS, ["mood"] * 32)
    problems = {each.problem for each, wanted in zip(found, WANTED, strict=True) if wanted not in folders}
    assert problems == {
        "it names no adapter; the bundle has intents, mood",
        "it names the adapter 'moood', which is not there; the bundle has intents, mood",
    }
    assert predictor.model_seconds > 0


def place(folders):
    return Place("folder", str(folders["bundle"]), None, "", adapters=("intents", "mood"))


@pytest.fixture(scope="module")
def documents(spark):
    rows = [(f"d{number:02}", text, "top_up") for number, text in enumerate(TEXTS)]
    metadata = F.create_map(
        F.lit("team"), F.when(F.col("number") % 4 == 0, "intents").when(F.col("number") % 4 == 1, "mood")
        .when(F.col("number") % 4 == 3, "moood")
    )  # fmt: skip
    documents = as_documents(spark, rows).drop("adapter").withColumn("number", F.substring("doc_id", 2, 2))
    return documents.withColumn("metadata", metadata).drop("number").coalesce(1).cache()


def test_a_table_of_documents_of_several_adapters(documents, folders):
    """All adapters share the batches of one task."""
    where = place(folders)
    rows = name_adapters(documents, where, MODEL, None, column="team")
    scored = sorted(score(rows, where).collect(), key=lambda row: row.doc_id)
    assert [row.adapter for row in scored] == WANTED
    for name in ("intents", "mood"):
        mine = [(row.prediction, row.score) for row in scored if row.adapter == name]
        assert mine == [(each.prediction, each.score) for each in alone(folders, name)]
    assert [row.problem is None for row in scored] == [name in folders for name in WANTED]
    assert {row.prediction for row in scored if row.problem} == {""}


def test_which_adapter_a_document_names(documents, folders):
    where = place(folders)

    def names(default, column):
        rows = name_adapters(documents, where, MODEL, default, column=column).orderBy("doc_id").limit(4)
        return [row.adapter for row in rows.collect()]

    assert names(None, "team") == ["intents", "mood", None, "moood"]
    assert names("mood", "team") == ["intents", "mood", "mood", "moood"]
    assert names("mood", None) == ["mood"] * 4
    assert names(None, "label") == ["top_up"] * 4  # a column comes before a key of metadata
    assert names("mood", "nothing") == ["mood"] * 4
    with pytest.raises(ValueError, match=r"scoring.adapter_column is 'nothing', but no document has"):
        names(None, "nothing")
    none = name_adapters(documents.limit(0), where, MODEL, None, column="nothing")
    assert none.collect() == []


@pytest.mark.parametrize(
    ("adapters", "default", "column", "message"),
    [
        ((), "mood", None, r"desk version 3 is none; set both to null"),
        (
            ("mood",),
            None,
            None,
            r"desk version 3 is a bundle of the adapters mood; set scoring.adapter to one",
        ),
        (("mood", "x"), "y", "team", r"scoring.adapter is 'y', but desk version 3 has mood, x"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused(documents, adapters, default, column, message):
    where = Place("folder", "/f", None, "", adapters=adapters)
    with pytest.raises(ValueError, match=message):
        name_adapters(documents, where, MODEL, default, column=column)
