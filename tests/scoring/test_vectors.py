"""Vectors of texts, as a served model gives them and as Spark writes them to predictions."""

from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pipelines.dataset.examples.example import Document, Part
from pipelines.finetune.models.architecture import Architecture, ModelSpec, RetrievalRules
from pipelines.finetune.models.build import build_model
from pipelines.finetune.models.folder import save_model
from pipelines.registry.versions.upload import VECTOR_SIGNATURE
from pipelines.scoring.predict import Predictor
from pipelines.scoring.serve import TextModel
from tests.scoring.conftest import SIZES

TEXTS = ["my card was lost", "", "请给我退款"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    path = tmp_path_factory.mktemp("embedder") / "model"
    spec = ModelSpec(
        task="retrieval", labels=(), max_tokens=32, base="scratch", tokenizer="t", retrieval=RetrievalRules()
    )
    architecture = Architecture(config={"model_type": "bert", **SIZES})
    model = build_model(architecture, spec, vocab_size=tokenizer.get_vocab_size(), seed=0)
    save_model(model, tokenizer.to_str(), spec, path)
    return path


def test_a_served_model_gives_vectors(folder):
    model = TextModel()
    model.load_context(SimpleNamespace(artifacts={"model": str(folder)}))
    found = model.predict(None, pd.DataFrame({"text": TEXTS}))
    assert list(found.columns) == VECTOR_SIGNATURE.outputs.input_names()
    expected = Predictor.load(folder).predict(TEXTS)
    assert found["embedding"].tolist() == [each.embedding for each in expected]
    assert {len(vector) for vector in found["embedding"]} == {SIZES["hidden_size"]}


def test_bfloat16_moves_vectors_a_little_and_keeps_their_length(folder):
    pair = Document("d", "", parts=(Part("query", TEXTS[0]), Part("positive", TEXTS[2])))
    exact, rough = (
        Predictor.load(folder, device="cpu", precision=precision).predict([pair])[0]
        for precision in ("float32", "bfloat16")
    )
    assert rough.score == pytest.approx(exact.score, abs=0.02)
    assert rough.embedding == pytest.approx(exact.embedding, abs=0.02)
    assert rough.embedding != exact.embedding
    for each in (exact, rough):
        assert np.linalg.norm(each.embedding) == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
def test_spark_writes_vectors_and_ranks(spark, folder):
    from pipelines.scoring import batch, select
    from pipelines.scoring.pull import Place

    parts = [{"name": "query", "text": TEXTS[0]}, {"name": "positive", "text": TEXTS[2]}]
    rows = [("a", TEXTS[0], "h", None, None), ("b", "", "h", None, parts)]
    documents = spark.createDataFrame(
        rows,
        "doc_id STRING, text STRING, content_hash STRING, label STRING, "
        "parts ARRAY<STRUCT<name: STRING, text: STRING>>",
    )
    model = SimpleNamespace(name="vectors", version=1, run_id="r")
    place = Place("folder", str(folder), None, "mrr", reads_parts=True)
    scored = batch.score_documents(
        select.partition_by_id(documents, 1), place, model, documents_version=1, scored_at=datetime.now(UTC)
    )
    plain, pair = sorted(scored.collect(), key=lambda row: row.doc_id)
    given = [TEXTS[0], Document("b", "", parts=tuple(Part(**part) for part in parts))]
    expected = Predictor.load(folder).predict(given)
    assert plain.embedding == pytest.approx(expected[0].embedding, abs=1e-5)
    assert pair.embedding == pytest.approx(expected[1].embedding, abs=1e-5)
    assert (plain.reciprocal_rank, pair.reciprocal_rank) == (None, 1.0)
    assert pair.score == pytest.approx(expected[1].score, abs=1e-5)
