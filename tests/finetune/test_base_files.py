"""Ranks find the files of a base that MLflow keeps: in place, on a shared disk, or on storage."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pyarrow.fs as pafs
import pytest
import torch

from pipelines.dataset import artefacts
from pipelines.dataset.artefacts import Artefact, File, provide_artefacts
from pipelines.finetune import base_files
from pipelines.finetune.base_files import open_base, place_base
from pipelines.finetune.models.adapter import Adapter
from pipelines.finetune.models.architecture import Architecture
from pipelines.finetune.models.build import build_model
from pipelines.finetune.models.folder import load_model, read_base_of, save_model
from pipelines.finetune.models.lora import hash_weights
from pipelines.finetune.models.teacher import digest_teacher
from pipelines.finetune.starting_model import build_starting_model
from pipelines.finetune.teacher import Teacher
from tests.finetune.data import VOCABULARY, make_tokenizer, make_training

NAME = "models:/intents/3"


class Kept:
    """A store whose only artefact has been brought."""

    def __init__(self, artefact):
        self.artefact = artefact

    def find(self, name):
        return self.artefact

    def fetch(self, artefact, names):
        assert set(names) == set(artefact.files)
        return artefact.folder


@pytest.fixture
def source(root, monkeypatch):
    """A trained model, already in the cache of the driver."""
    monkeypatch.setattr(artefacts, "_open", None)
    training = make_training(root)
    module = build_model(training.architecture, training.spec, vocab_size=VOCABULARY, seed=9)
    made = root / "made"
    save_model(module, make_tokenizer().to_str(), training.spec, made)
    files = {path.name: File(path.name, path.stat().st_size) for path in made.iterdir()}
    artefact = Artefact(NAME, "m-1", files)
    artefact.folder.parent.mkdir(parents=True)
    made.rename(artefact.folder)
    provide_artefacts(lambda: Kept(artefact))
    yield SimpleNamespace(module=module, artefact=artefact, training=continued(root))
    artefacts.find_artefact.cache_clear()


def continued(root):
    return make_training(root, folder=str(root / "trainings" / "abc"), architecture=Architecture(base=NAME))


def session(master):
    return SimpleNamespace(sparkContext=SimpleNamespace(master=master))


def build(training, *, with_weights=True):
    with open_base(training, with_weights=with_weights) as architecture:
        return build_model(
            architecture, training.spec, vocab_size=VOCABULARY, seed=0, load_weights=with_weights
        )


def require_equal_encoder(module, expected):
    found, wanted = module.encoder.state_dict(), expected.encoder.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_ranks_of_one_machine_read_the_copy_of_the_driver(source, root):
    placed = place_base(session("local[2]"), source.training)
    require_equal_encoder(build(placed), source.module)
    assert not (root / "trainings" / "bases").exists()
    assert placed.identity() == source.training.identity()
    assert placed.identity()["architecture"]["base"] == NAME


@pytest.mark.parametrize("is_shared_disk", [True, False])
def test_ranks_of_other_machines_read_shared_storage(source, root, monkeypatch, is_shared_disk):
    placed = place_base(session("spark://host:7077"), source.training)
    source.artefact.folder.rename(root / "on another machine")
    if not is_shared_disk:
        remote = pafs.SubTreeFileSystem("/", pafs.LocalFileSystem())
        monkeypatch.setattr(base_files, "locate", lambda path: (remote, path))
    require_equal_encoder(build(placed), source.module)
    with open_base(placed, with_weights=True) as architecture:
        assert architecture.base.startswith(placed.base_files.shared) is is_shared_disk


def test_ranks_without_weights_copy_none(source, root, monkeypatch):
    placed = place_base(session("spark://host:7077"), source.training)
    (root / "trainings" / "bases" / source.artefact.folder.name / "model.safetensors").unlink()
    source.artefact.folder.rename(root / "on another machine")
    remote = pafs.SubTreeFileSystem("/", pafs.LocalFileSystem())
    monkeypatch.setattr(base_files, "locate", lambda path: (remote, path))
    assert build(placed, with_weights=False).encoder.state_dict().keys()
    with pytest.raises(FileNotFoundError):
        build(placed)


@pytest.mark.parametrize("is_here", [True, False])
def test_an_adapter_calls_its_base_by_the_name_that_stays(source, root, monkeypatch, is_here):
    """Not by the folder of the cache, nor by that of a copy, which is deleted."""
    architecture = Architecture(base=NAME, adapter=Adapter(kind="lora", merge=False))
    placed = replace(place_base(session("spark://host:7077"), source.training), architecture=architecture)
    if not is_here:
        source.artefact.folder.rename(root / "on another machine")
        remote = pafs.SubTreeFileSystem("/", pafs.LocalFileSystem())
        monkeypatch.setattr(base_files, "locate", lambda path: (remote, path))
    module = build_starting_model(
        placed, tokenizer=make_tokenizer(), device=torch.device("cpu"), load_weights=False
    )
    save_model(module, make_tokenizer().to_str(), placed.spec, root / "adapted")
    assert read_base_of(root / "adapted").place == NAME
    fields = json.loads((root / "adapted" / "adapter" / "adapter_config.json").read_text())
    assert fields["base_model_name_or_path"] == NAME
    monkeypatch.setattr(artefacts, "_open", None)
    artefacts.find_artefact.cache_clear()
    with pytest.raises(RuntimeError, match=rf"needs its base {NAME}, .* does not reach MLflow; .*merge=true"):
        load_model(root / "adapted")


@pytest.mark.parametrize("is_here", [True, False])
def test_the_teacher_comes_to_every_machine_too(source, root, monkeypatch, is_here):
    taught = replace(make_training(root, folder=str(root / "trainings" / "abc")), teacher=Teacher(base=NAME))
    placed = place_base(session("spark://host:7077"), taught)
    assert placed.base_files is None
    if not is_here:
        source.artefact.folder.rename(root / "on another machine")
        remote = pafs.SubTreeFileSystem("/", pafs.LocalFileSystem())
        monkeypatch.setattr(base_files, "locate", lambda path: (remote, path))
    module = build_starting_model(
        placed, tokenizer=make_tokenizer(), device=torch.device("cpu"), load_weights=False
    )
    assert digest_teacher(module) == hash_weights(source.module)


def test_half_a_copy_is_made_whole(source, root):
    placed = place_base(session("spark://host:7077"), source.training)
    half = root / "trainings" / "bases" / source.artefact.folder.name / "model.safetensors"
    half.write_bytes(half.read_bytes()[:100])
    place_base(session("spark://host:7077"), source.training)
    source.artefact.folder.rename(root / "on another machine")
    require_equal_encoder(build(placed), source.module)


def test_other_bases_stay_as_they_are(root):
    training = make_training(root)
    assert place_base(session("local[2]"), training) is training
    folder = replace(training, architecture=Architecture(base="/some/folder"))
    assert place_base(session("local[2]"), folder) is folder
    with open_base(folder, with_weights=True) as architecture:
        assert architecture is folder.architecture
