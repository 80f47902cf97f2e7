"""An adapter without the weights of its base as a model version."""

from dataclasses import replace

import mlflow
import pandas as pd
import peft
import pytest

from pipelines.dataset.tokenizer import train_bpe
from pipelines.finetune.models.adapter import Adapter
from pipelines.finetune.models.architecture import Architecture, read_spec
from pipelines.finetune.models.build import build_model
from pipelines.finetune.models.folder import save_model
from pipelines.registry.versions.resolve import resolve_model
from pipelines.scoring.predict import Predictor
from tests.registry.conftest import register


@pytest.fixture
def adapter_folder(model_folders, tmp_path):
    """A model folder with an adapter on the first of model_folders."""
    base = model_folders[0]
    spec = replace(read_spec(base), base=str(base))
    tokenizer = train_bpe(iter(["lost my card", "信用卡丢了"] * 2), vocab_size=280)
    architecture = Architecture(base=str(base), adapter=Adapter(kind="lora", merge=False))
    module = build_model(architecture, spec, vocab_size=tokenizer.get_vocab_size(), seed=1)
    save_model(module, tokenizer.to_str(), spec, tmp_path / "model")
    return tmp_path / "model"


def test_a_version_holds_the_adapter_and_loads_with_its_base(
    new_run, adapter_folder, model_folders, model_name
):
    assert register(new_run(), adapter_folder, model_name) == 1
    folder = resolve_model(model_name, 1).folder
    weights = {file.relative_to(folder).as_posix() for file in folder.rglob("*.safetensors")}
    assert weights == {"head.safetensors", "adapter/adapter_model.safetensors"}
    assert f"peft=={peft.__version__}" in (folder.parents[1] / "requirements.txt").read_text().split()
    texts = pd.DataFrame({"text": ["lost my card"]})
    served = mlflow.pyfunc.load_model(f"models:/{model_name}/1").predict(texts)
    ours = Predictor.load(adapter_folder).predict(["lost my card"])
    assert list(served["prediction"]) == [each.prediction for each in ours]


def test_whole_models_need_no_peft(new_run, model_folders, model_name):
    register(new_run(), model_folders[0], model_name)
    needed = (resolve_model(model_name, 1).folder.parents[1] / "requirements.txt").read_text()
    assert "torch==" in needed
    assert "peft" not in needed
