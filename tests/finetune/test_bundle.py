"""A folder with adapters and their base: complete, loaded as each model alone, refused if it is not."""

import json
import shutil

import pytest
import safetensors.torch
import torch

from pipelines.finetune.models.architecture import is_bundle, read_bundle
from pipelines.finetune.models.bundle import load_bundle, write_bundle
from tests.finetune.test_adapters import IDS, MASK
from tests.finetune.test_model import logits
from tests.finetune.test_together import write_models

NAMES = ("all", "merged", "network", "tokens")


def bundle(root, name):
    folders = {each: folder for each, folder in write_models(root, name).items() if each in NAMES}
    write_bundle(folders, {each: {"version": 1} for each in folders}, root / "bundle")
    return root / "bundle"


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_a_bundle_needs_nothing_else_and_gives_the_outputs_of_each_model(tmp_path, name):
    folder = bundle(tmp_path, name).rename(tmp_path / "moved")
    expected = {each: torch.load(tmp_path / f"{each}.pt", weights_only=True) for each in NAMES}
    for each in ("base", *NAMES):
        shutil.rmtree(tmp_path / each)
    models = load_bundle(folder)
    assert sorted(models) == sorted(NAMES)
    for each in (*NAMES, *reversed(NAMES)):
        assert torch.equal(logits(models[each].module, IDS, MASK), expected[each])
    assert len({each.numpy().tobytes() for each in expected.values()}) == len(NAMES)
    weights = {file.relative_to(folder).as_posix() for file in folder.rglob("*.safetensors")}
    heads = {f"adapters/{each}/head.safetensors" for each in NAMES} if name == "bert" else set()
    adapters = {f"adapters/{each}/adapter/adapter_model.safetensors" for each in NAMES}
    assert weights == {"base/model.safetensors"} | adapters | heads
    assert is_bundle(folder)
    assert not is_bundle(folder / "adapters" / "all")


def test_adapters_of_other_bases_are_refused(tmp_path):
    bert, llama = (write_models(tmp_path / name, name) for name in ("bert", "llama"))
    with pytest.raises(ValueError, match=r"models 'a' and 'b' belong to different bases"):
        write_bundle({"a": bert["all"], "b": llama["all"]}, {}, tmp_path / "bundle")
    assert not (tmp_path / "bundle" / "bundle.json").exists()


def test_a_base_that_changed_is_refused(tmp_path):
    folder = bundle(tmp_path, "bert")
    file = folder / "base" / "model.safetensors"
    weights = safetensors.torch.load_file(file)
    weights["encoder.layer.0.output.dense.bias"][3] += 1e-6
    safetensors.torch.save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"the adapter in .*bundle/adapters/all/adapter belongs to the base weights"
    ):
        load_bundle(folder)


def test_names_can_not_lead_out_of_the_folder():
    assert list(read_bundle(json.dumps({"adapters": {"mood": {}}}).encode())) == ["mood"]
    with pytest.raises(ValueError, match=r"an adapter '\.\./x'; its name must be letters, digits and _"):
        read_bundle(json.dumps({"adapters": {"../x": {}}}).encode())
