"""Compiled layers: the same training, the same names, and an error where nothing can be compiled."""

import os

import pytest
import torch
from safetensors.torch import load_file

from pipelines.finetune.events import EventReader
from pipelines.finetune.models.architecture import Architecture
from pipelines.finetune.models.build import build_model
from pipelines.finetune.models.compiling import compile_layers, leave_uncompiled, require_compiler
from pipelines.finetune.worker import train_rank
from pipelines.storage import Folder
from tests.finetune.data import VOCABULARY, WITHOUT_DROPOUT, make_training
from tests.finetune.ranks import RankDiedError, alone, run_processes
from tests.finetune.test_model import TINY_LLAMA
from tests.finetune.test_task import make_spec

CPU = torch.device("cpu")


def build(config, task="language_modelling"):
    return build_model(Architecture(config=config), make_spec(task), vocab_size=VOCABULARY, seed=0)


def is_compiled(module):
    return any(each._compiled_call_impl is not None for each in module.modules())


def test_layers_are_marked_and_names_stay():
    module = build({**TINY_LLAMA, "num_hidden_layers": 3})
    names = [*module.state_dict()]
    assert not is_compiled(module)
    assert compile_layers(module) == 3
    assert is_compiled(module)
    assert [*module.state_dict()] == names
    leave_uncompiled(module)
    assert not is_compiled(module)


def test_a_model_without_layers_of_its_kind_is_refused():
    config = {"model_type": "openai-gpt", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}
    with pytest.raises(ValueError, match=r"compile: model type openai-gpt has no layers .* set it to false"):
        compile_layers(build(config))


def test_a_machine_without_a_compiler_is_named(root, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    execution = make_training(root, compile=True).execution
    with pytest.raises(
        ImportError, match=r"needs a C\+\+ compiler .* none of g\+\+, clang\+\+, c\+\+ is here"
    ):
        require_compiler(execution, CPU)
    monkeypatch.setenv("CXX", "icpx")
    with pytest.raises(
        ImportError, match=r"none of icpx is here; install it, or set finetune\.compile=false"
    ):
        train_rank(make_training(root, compile=True), alone())
    require_compiler(make_training(root).execution, CPU)


def train_compiled(world, training, cache):
    """Train; how many graphs were compiled."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
    train_rank(training, world)
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


@pytest.mark.slow
@pytest.mark.horovod
def test_a_compiled_training_is_the_same_training(root, tmp_path):
    """One process without, two ranks with compiled layers, which recompute their activations."""
    settings = {"config": WITHOUT_DROPOUT, "num_epochs": 1.0}
    eager = make_training(root, folder=str(root / "eager"), **settings)
    compiled = make_training(
        root, folder=str(root / "compiled"), compile=True, activation_checkpointing=True, **settings
    )
    train_rank(eager, alone())
    graphs = run_processes(train_compiled, compiled, str(tmp_path / "inductor"), num_ranks=2)
    assert all(1 <= number <= 4 for number in graphs)  # of both layers: training, recomputed, evaluation
    curves = [
        [
            event["loss"]
            for event in EventReader(Folder(each.folder) / "events").new()
            if event["kind"] == "step"
        ]
        for each in (eager, compiled)
    ]
    assert len(curves[0]) == 10
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)
    for file in ("model/model.safetensors", "checkpoints/step-00000010/model.safetensors"):
        first, second = (load_file(f"{each.folder}/{file}") for each in (eager, compiled))
        assert first.keys() == second.keys()
        for name, weight in first.items():
            torch.testing.assert_close(second[name], weight, rtol=1e-2, atol=1e-3)


def train_with_broken_compiler(world, training, cache):
    os.environ.update(TORCHINDUCTOR_CACHE_DIR=cache, CXX="false")
    train_rank(training, world)


@pytest.mark.slow
def test_a_compiler_that_fails_ends_the_training_before_it_starts(root, tmp_path):
    training = make_training(root, compile=True)
    with pytest.raises(
        RankDiedError, match=r"ImportError: finetune\.compile=true: torch can't compile for cpu"
    ):
        run_processes(train_with_broken_compiler, training, str(tmp_path / "inductor"), num_ranks=1)
    assert not (root / "run/events").exists()
