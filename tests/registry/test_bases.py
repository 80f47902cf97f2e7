"""Bases out of a real local store: registered versions of this project and paths of runs."""

from dataclasses import replace

import pytest
import torch
from mlflow import MlflowClient

from pipelines.dataset import artefacts
from pipelines.dataset.artefacts import fetch_artefact, find_artefact, provide_artefacts
from pipelines.dataset.hub import base_identity
from pipelines.dataset.tokenizer import load_tokenizer
from pipelines.finetune.models.adapter import Adapter
from pipelines.finetune.models.architecture import Architecture, read_spec
from pipelines.finetune.models.build import build_model
from pipelines.finetune.models.folder import load_model, save_model
from pipelines.registry.bases import Bases
from pipelines.registry.lookup import Lookup
from pipelines.registry.versions.aliases import promote
from pipelines.registry.versions.resolve import resolve_model
from tests.registry.conftest import register


@pytest.fixture
def bases(connected, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTRIBUTARY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(artefacts, "_open", None)
    found = Bases(f"sqlite:///{connected}/mlflow.db")
    provide_artefacts(lambda: found)
    yield found
    artefacts.find_artefact.cache_clear()


def test_a_registered_version_is_brought_without_its_code(bases, new_run, model_folders, model_name):
    register(new_run(), model_folders[0], model_name)
    artefact = find_artefact(f"models:/{model_name}@challenger")
    assert artefact.name == f"models:/{model_name}/1"
    assert set(artefact.files) == {path.name for path in model_folders[0].iterdir()}
    chosen = load_tokenizer(f"models:/{model_name}@challenger")
    assert (
        chosen.tokenizer.encode("lost my card").ids
        == load_model(model_folders[0]).tokenizer.encode("lost my card").ids
    )
    assert not (artefact.folder / "model.safetensors").exists()

    folder = fetch_artefact(artefact, artefact.files)
    brought, original = (
        load_model(folder).module.state_dict(),
        load_model(model_folders[0]).module.state_dict(),
    )
    assert brought.keys() == original.keys()
    assert all(torch.equal(brought[name], original[name]) for name in original)


def test_an_alias_follows_the_next_command(bases, new_run, model_folders, model_name):
    for number, folder in enumerate(model_folders):
        promote(model_name, register(new_run(f"abc{number}"), folder, model_name))
        provide_artefacts(lambda: bases)
        assert find_artefact(f"models:/{model_name}@champion").name == f"models:/{model_name}/{number + 1}"
    identities = [base_identity(f"models:/{model_name}/{number}") for number in (1, 2)]
    assert identities[0] != identities[1] == base_identity(f"models:/{model_name}@champion")


def test_a_number_that_is_given_again_is_another_base(bases, new_run, model_folders, model_name):
    register(new_run("one"), model_folders[0], model_name)
    before = base_identity(f"models:/{model_name}/1")
    MlflowClient().delete_registered_model(model_name)
    register(new_run("two"), model_folders[1], model_name)
    provide_artefacts(lambda: bases)
    assert base_identity(f"models:/{model_name}/1") != before


def test_a_damaged_version_is_refused_and_not_kept(bases, new_run, model_folders, model_name):
    register(new_run(), model_folders[0], model_name)
    artefact = find_artefact(f"models:/{model_name}/1")
    stored = resolve_model(model_name, 1).folder / "model_spec.json"
    content = stored.read_bytes()
    stored.write_bytes(content.replace(b"lost_card", b"cost_card"))
    assert stored.stat().st_size == len(content)
    assert stored.read_bytes() != content
    with pytest.raises(ValueError, match=rf"models:/{model_name}/1: digest of .* was registered"):
        fetch_artefact(artefact, artefact.files)
    assert not artefact.folder.exists()
    stored.write_bytes(content)
    assert load_model(fetch_artefact(artefact, artefact.files)).spec.labels == ("lost_card", "退款")


@pytest.fixture
def adapter_folder(model_folders, tmp_path):
    """Makes a model folder with an adapter on the first of model_folders, merged or alone."""

    def make(*, merge):
        base, tokenizer = model_folders[0], load_model(model_folders[0]).tokenizer
        architecture = Architecture(base=str(base), adapter=Adapter(kind="lora", merge=merge))
        spec = replace(read_spec(base), base=str(base))
        module = build_model(architecture, spec, vocab_size=tokenizer.get_vocab_size(), seed=1)
        save_model(module, tokenizer.to_str(), spec, tmp_path / "with an adapter")
        return tmp_path / "with an adapter"

    return make


def test_a_version_with_an_adapter_beside_its_weights_is_a_base(bases, new_run, adapter_folder, model_name):
    made = adapter_folder(merge=True)
    register(new_run(), made, model_name)
    artefact = find_artefact(f"models:/{model_name}/1")
    assert (artefact.has_adapter, artefact.digest) == (True, None)
    folder = fetch_artefact(artefact, artefact.files)
    assert {path.name for path in folder.iterdir()} == {path.name for path in made.iterdir()} - {"adapter"}
    assert base_identity(artefact.name) == artefact.identity
    brought, original = (load_model(each).module.state_dict() for each in (folder, made))
    assert all(torch.equal(brought[name], original[name]) for name in original)


def test_an_adapter_alone_is_no_base(bases, new_run, adapter_folder, model_name):
    made, run_id = adapter_folder(merge=False), new_run()
    register(run_id, made, model_name)
    for path in (made / "adapter").iterdir():
        MlflowClient().log_artifact(run_id, str(path), "adapter")
    for name in (f"models:/{model_name}/1", f"runs:/{run_id}/adapter"):
        with pytest.raises(FileNotFoundError, match=rf"{name} holds an adapter without its base.*merge=true"):
            base_identity(name)


def test_a_path_of_a_run_is_brought(bases, new_run, model_folders):
    run_id = new_run()
    for path in model_folders[1].iterdir():
        MlflowClient().log_artifact(run_id, str(path), "kept/model")
    MlflowClient().log_text(run_id, "not read", "kept/model/notes.txt")
    artefact = find_artefact(f"runs:/{run_id}/kept/model")
    assert set(artefact.files) == {path.name for path in model_folders[1].iterdir()}
    folder = fetch_artefact(artefact, artefact.files)
    for path in model_folders[1].iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()


def test_what_mlflow_does_not_have_is_named(bases, new_run, model_folders, model_name):
    register(new_run(), model_folders[0], model_name)
    run_id = new_run("empty")
    for name, message in {
        f"models:/{model_name}/7": rf"models:/{model_name}/7: .* has no version or alias '7'.*versions: 1",
        f"models:/{model_name}@winner": "no version or alias 'winner'",
        "models:/nobody/1": "no registered model 'nobody'",
        f"runs:/{run_id}/nothing": r"has no tokenizer\.json, config\.json or \*\.safetensors",
        "runs:/0123456789abcdef0123456789abcdef/model": "MLflow has no such run or version",
    }.items():
        with pytest.raises(FileNotFoundError, match=message):
            find_artefact(name)


def test_a_second_plan_asks_no_store(bases, connected, new_run, model_folders, model_name, monkeypatch):
    register(new_run(), model_folders[0], model_name)
    first = find_artefact(f"models:/{model_name}@challenger")
    monkeypatch.setattr(Lookup, "connect", lambda self: pytest.fail("the store was asked"))
    provide_artefacts(lambda: Bases(f"sqlite:///{connected}/mlflow.db"))
    assert find_artefact(f"models:/{model_name}@challenger") == first


def test_a_model_of_the_flavor_transformers_is_read_from_its_folders(bases, new_run, model_folders, tmp_path):
    """MLflow puts weights into model/ and the tokenizer into components/tokenizer/."""
    run_id = new_run()
    for path in model_folders[0].iterdir():
        place = "other/components/tokenizer" if path.name == "tokenizer.json" else "other/model"
        MlflowClient().log_artifact(run_id, str(path), place)
    artefact = find_artefact(f"runs:/{run_id}/other")
    folder = fetch_artefact(artefact, artefact.files)
    assert {path.name for path in folder.iterdir()} == {path.name for path in model_folders[0].iterdir()}
