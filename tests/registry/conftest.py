"""One SQLite store for all tests, because its migrations take seconds; every test uses its own names."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

import pipelines.scoring
from pipelines.dataset.tokenizer import tokenizer_fingerprint, train_bpe
from pipelines.finetune.models.architecture import Architecture, ModelSpec
from pipelines.finetune.models.build import build_model
from pipelines.finetune.models.folder import save_model
from pipelines.registry import store
from pipelines.registry.runs.tracker import Tracker
from pipelines.registry.versions.register import register_model

SCRIPT = Path(pipelines.scoring.__file__).with_name("serve.py")
TINY_BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


@pytest.fixture(scope="session")
def store_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("registry store")


@pytest.fixture
def connected(store_folder):
    store.connect(f"sqlite:///{store_folder}/mlflow.db")
    return store_folder


@pytest.fixture
def experiment(connected, request):
    return f"experiment {request.node.name}"


@pytest.fixture
def model_name(request):
    return request.node.name.replace("[", "-").replace("]", "")


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory):
    """Two classifiers that differ only in their weights."""
    tokenizer = train_bpe(iter(["lost my card", "信用卡丢了"] * 2), vocab_size=280)
    spec = ModelSpec(
        task="classification",
        labels=("lost_card", "退款"),
        max_tokens=16,
        base="scratch",
        tokenizer=tokenizer_fingerprint(tokenizer),
    )
    folders = []
    for seed in (1, 2):
        module = build_model(
            Architecture(config=TINY_BERT), spec, vocab_size=tokenizer.get_vocab_size(), seed=seed
        )
        folders.append(tmp_path_factory.mktemp("model") / "model")
        save_model(module, tokenizer.to_str(), spec, folders[-1])
    return folders


@pytest.fixture
def new_run(experiment):
    def start(fingerprint="abc"):
        tracker = Tracker(experiment, fingerprint)
        tracker.finish({"accuracy": 0.5})
        return tracker.run_id

    return start


def register(run_id, folder, name):
    return register_model(run_id, folder, name, code=SCRIPT, input_example=["lost my card", "退款"])


def versions(name):
    return sorted(
        int(version.version) for version in MlflowClient().search_model_versions(f"name = '{name}'")
    )


def aliases(name):
    return {
        alias: int(version) for alias, version in MlflowClient().get_registered_model(name).aliases.items()
    }
