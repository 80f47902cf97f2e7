"""Sets of labels with probabilities, as a predictor and a served model give them."""

import json
from types import SimpleNamespace

import pandas as pd
import pyarrow as pa
import pytest
import torch

from pipelines.finetune.models.architecture import Architecture, ModelSpec
from pipelines.finetune.models.build import build_model
from pipelines.finetune.models.folder import save_model
from pipelines.registry.versions.upload import LABELS_SIGNATURE
from pipelines.scoring.batch import _to_structs
from pipelines.scoring.predict import DECIMALS, Predictor
from pipelines.scoring.serve import TextModel
from tests.scoring.conftest import LABELS, SIZES

TEXTS = ["my card was lost", "", "请给我退款"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    path = tmp_path_factory.mktemp("labeller") / "model"
    spec = ModelSpec(
        task="multi_label_classification",
        labels=LABELS,
        max_tokens=32,
        base="scratch",
        tokenizer="t",
        label_threshold=0.5,
    )
    architecture = Architecture(config={"model_type": "bert", **SIZES})
    model = build_model(architecture, spec, vocab_size=tokenizer.get_vocab_size(), seed=0)
    model.head.weight.data *= 20
    model.head.bias.data = torch.tensor([9.0, -9.0, 0.0])  # the first for sure, the second never
    save_model(model, tokenizer.to_str(), spec, path)
    return path


def test_a_served_model_gives_labels_with_probabilities(folder):
    model = TextModel()
    model.load_context(SimpleNamespace(artifacts={"model": str(folder)}))
    found = model.predict(None, pd.DataFrame({"text": TEXTS}))
    assert list(found.columns) == LABELS_SIGNATURE.outputs.input_names()
    expected = Predictor.load(folder).predict(TEXTS)
    assert [[(each["label"], each["probability"]) for each in labels] for labels in found["labels"]] == [
        each.labels for each in expected
    ]
    for prediction, labels in zip(found["prediction"], found["labels"], strict=True):
        assert json.loads(prediction) == sorted(each["label"] for each in labels)
        assert LABELS[0] in prediction
        assert LABELS[1] not in prediction


def test_probabilities_have_the_decimals_of_a_score(folder):
    for each in Predictor.load(folder).predict(TEXTS):
        shares = [share for _, share in each.labels]
        assert shares == [round(share, DECIMALS) for share in shares]
        assert each.score == round(each.score, DECIMALS)


def test_the_column_tells_no_label_from_no_set():
    kind = pa.list_(pa.struct([("label", pa.string()), ("probability", pa.float64())]))
    rows = [[("退款", 0.75), ("a", 0.5)], [], None]
    column = pa.array([_to_structs(each) for each in rows], kind)
    assert column.to_pylist() == [
        [{"label": "退款", "probability": 0.75}, {"label": "a", "probability": 0.5}],
        [],
        None,
    ]
