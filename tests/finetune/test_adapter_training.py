"""Whole trainings with an adapter: the base stays as it is, and no file holds it but the merged model."""

import json
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from pipelines.finetune import worker
from pipelines.finetune.memory.estimate import estimate_memory
from pipelines.finetune.models.adapter import Adapter, read_base
from pipelines.finetune.models.architecture import Architecture
from pipelines.finetune.models.build import build_model
from pipelines.finetune.models.folder import load_model
from pipelines.finetune.models.lora import find_backbone, hash_weights
from pipelines.finetune.results import display_result
from pipelines.finetune.worker import train_rank
from pipelines.scoring.predict import Predictor
from tests.conftest import TINY_ENCODER
from tests.finetune.data import VOCABULARY, WITHOUT_DROPOUT, classification_rows, make_training
from tests.finetune.ranks import alone
from tests.finetune.test_train import read_events, read_losses


@pytest.fixture
def base(root):
    """A base as transformers writes it."""
    training = make_training(root)
    module = build_model(training.architecture, training.spec, vocab_size=VOCABULARY, seed=9)
    module.encoder.save_pretrained(root / "base")
    return root / "base"


def adapted(root, base, *, name="run", merge=True, **changes):
    """A training of an adapter with dropout, of 30 steps."""
    adapter = Adapter(kind="lora", rank=4, dropout=0.2, merge=merge)
    architecture = Architecture(base=str(base), adapter=adapter)
    changes = {"learning_rate": 0.01, **changes}
    return make_training(root, folder=str(root / name), architecture=architecture, **changes)


def read_weights(folder, step):
    return safetensors.torch.load_file(folder / "checkpoints" / f"step-{step:08d}" / "model.safetensors")


def test_a_training_learns_and_leaves_the_base_as_it_is(root, base):
    before = safetensors.torch.load_file(base / "model.safetensors")
    result = train_rank(adapted(root, base, merge=False, num_epochs=6.0), alone())
    assert result["before"]["accuracy"] < 0.5 < 0.7 < result["after"]["accuracy"]
    model = load_model(root / "run" / "model").module  # refuses a base of other values
    kept = {name.replace(".base_layer", ""): each for name, each in model.encoder.named_parameters()}
    assert {name: each for name, each in before.items() if not torch.equal(kept[name], each)} == {}
    plain = build_model(Architecture(base=str(base)), make_training(root).spec, vocab_size=VOCABULARY, seed=3)
    assert read_base(root / "run" / "model" / "adapter").sha256 == hash_weights(plain.encoder)


def test_checkpoints_hold_adapter_and_head_alone(root, base):
    train_rank(adapted(root, base, num_epochs=1.0), alone())
    folder = root / "run" / "checkpoints" / "step-00000010"
    weights = read_weights(root / "run", 10)
    assert {name.split(".")[0] if "lora_" not in name else "lora" for name in weights} == {"lora", "head"}
    # By hand, float32: rank 4 beside 2 layers of 4 x (32, 32), (32, 64) and (64, 32); the head of 4 classes.
    numbers = 2 * (4 * 4 * 64 + 2 * 4 * 96) + 4 * 32 + 4
    sizes = {file.name: file.stat().st_size for file in folder.glob("*.safetensors")}
    assert 4 * numbers < sizes["model.safetensors"] < 4 * numbers + 5_000
    assert 8 * numbers < sizes["optimizer-00000-of-00001.safetensors"] < 8 * numbers + 15_000  # two moments
    record = json.loads((folder / "complete.json").read_text())
    assert record["base"] == read_base(root / "run" / "model" / "adapter").sha256


@pytest.mark.parametrize("kind", ["bottleneck", "prefix"])
def test_kinds_without_a_merge_learn_and_are_used_on_their_base(root, base, kind):
    training = adapted(root, base, num_epochs=4.0, learning_rate=0.02)
    adapter = Adapter(kind=kind, rank=8) if kind == "bottleneck" else Adapter(kind=kind)
    architecture = Architecture(base=str(base), config=WITHOUT_DROPOUT, adapter=adapter)
    training = replace(training, architecture=architecture)
    rows = classification_rows(8, 0)
    assert estimate_memory(
        training, rows, evaluated=rows, num_evaluated=8, num_ranks=1, vocab_size=VOCABULARY
    ).optimizer
    result = train_rank(training, alone())
    assert result["after"]["accuracy"] > max(0.5, result["before"]["accuracy"])  # four classes
    own = {"bottleneck": "houlsby_layers", "prefix": "prefix_tokens"}[kind]
    weights = read_weights(root / "run", 40)
    assert all(own in name or name.startswith("head.") for name in weights)
    assert any(own in name for name in weights)
    found = Predictor.load(root / "run" / "model").predict(["w1 w1", "w2 w2 w9", "w3 w3"])
    assert len({each.prediction for each in found}) > 1


def test_the_result_says_how_many_parameters_are_trained(root, base):
    result = train_rank(adapted(root, base, num_epochs=0.2), alone())
    # As above; the base is what the file holds.
    num_base = sum(each.numel() for each in safetensors.torch.load_file(base / "model.safetensors").values())
    assert result["num_trained_parameters"] == 3_584 + 132
    assert result["num_parameters"] == 3_584 + 132 + num_base
    text = f"3,716 of {num_base + 3_716:,}"
    assert display_result(result)["trained parameters"] == text
    notes = [event["text"] for event in read_events(root / "run") if event["kind"] == "note"]
    assert f"{text} parameters are trained" in notes


@pytest.mark.parametrize("stop", [7, 10, 12])
def test_a_stopped_training_ends_with_the_same_weights(root, base, monkeypatch, stop):
    whole = train_rank(adapted(root, base, name="whole"), alone())
    training = adapted(root, base, name="stopped")
    seen = worker._Rank._after_step

    def end(self, step, *arguments):
        seen(self, step, *arguments)
        if step == stop:
            raise KeyboardInterrupt

    monkeypatch.setattr(worker._Rank, "_after_step", end)
    with pytest.raises(KeyboardInterrupt):
        train_rank(training, alone())
    monkeypatch.setattr(worker._Rank, "_after_step", seen)
    again = train_rank(training, alone())
    assert again["weights"] == whole["weights"]
    assert again["after"] == whole["after"]
    ends = [read_losses(root / name)[30] for name in ("whole", "stopped")]
    assert ends[0] == ends[1]


def test_dropout_of_the_adapter_takes_part(root, base):
    for name, dropout in (("with", 0.5), ("without", 0.0)):
        adapter = Adapter(kind="lora", rank=4, dropout=dropout)
        architecture = Architecture(base=str(base), config=WITHOUT_DROPOUT, adapter=adapter)
        train_rank(
            replace(adapted(root, base, name=name, num_epochs=0.5), architecture=architecture), alone()
        )
    with_dropout, without = (read_losses(root / name) for name in ("with", "without"))
    assert with_dropout[1] == without[1]  # B is still zero
    assert with_dropout[3] != without[3]


def test_a_checkpoint_of_another_base_is_refused(root, base):
    train_rank(adapted(root, base, num_epochs=1.0), alone())
    (root / "run" / "result.json").unlink()
    weights = safetensors.torch.load_file(base / "model.safetensors")
    next(iter(weights.values())).flatten()[0] += 1
    safetensors.torch.save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=rf"checkpoint .*step-\d+ belongs to the base weights {base} with sha256"
    ):
        train_rank(adapted(root, base, num_epochs=1.0), alone())


def test_merged_and_separate_folders_predict_the_same(root, base):
    texts = [f"w{number} w{number + 3} w2 w2" for number in range(20)]
    predictions = []
    for merge in (True, False):
        training = adapted(root, base, name=f"merge {merge}", merge=merge)
        train_rank(training, alone())
        predictions.append(Predictor.load(root / f"merge {merge}" / "model").predict(texts))
    merged, separate = predictions
    assert [each.prediction for each in merged] == [each.prediction for each in separate]
    assert max(abs(one.score - other.score) for one, other in zip(merged, separate, strict=True)) < 1e-5
    assert len({each.prediction for each in merged}) > 1
    files = {file.name for file in (root / "merge False" / "model").rglob("*.safetensors")}
    assert files == {"adapter_model.safetensors", "head.safetensors"}
    sizes = [
        sum(file.stat().st_size for file in (root / f"merge {merge}" / "model").rglob("*.safetensors"))
        for merge in (True, False)
    ]
    assert sizes[0] > 3 * sizes[1]


def test_masked_language_modelling_needs_a_base_with_its_head(text_root):
    task = "masked_language_modelling"
    spec = make_training(text_root, task=task).spec
    whole = build_model(Architecture(config=TINY_ENCODER), spec, vocab_size=VOCABULARY, seed=1)
    whole.encoder.save_pretrained(text_root / "with head")
    whole.encoder.base_model.save_pretrained(text_root / "without")
    architecture = Architecture(base=str(text_root / "with head"), adapter=Adapter(kind="lora", rank=2))
    result = train_rank(
        make_training(text_root, task=task, architecture=architecture, learning_rate=0.02, num_epochs=4.0),
        alone(),
    )
    assert result["after"]["loss"] < result["before"]["loss"]
    model = load_model(text_root / "run" / "model")
    again = replace(architecture, base=str(text_root / "run" / "model"))
    _, backbone = find_backbone(build_model(again, model.spec, vocab_size=VOCABULARY, seed=1))
    assert "cls.predictions.transform.dense.lora_A.default.weight" in backbone.state_dict()
    with pytest.raises(ValueError, match=r"lacks weights of its own architecture: cls.predictions"):
        build_model(
            replace(architecture, base=str(text_root / "without")), spec, vocab_size=VOCABULARY, seed=1
        )
