"""Compiled layers: the same training, the same names, and an error where nothing can be compiled."""

import os

import pytest
import torch
from safetensors.torch import load_file

from pipelines.dataset.tokenizer import read_tokenizer
from pipelines.finetune.events import EventReader
from pipelines.finetune.models.architecture import Architecture
from pipelines.finetune.models.build import build_model
from pipelines.finetune.models.compiling import compile_layers, leave_uncompiled, require_compiler
from pipelines.finetune.parallel import buckets
from pipelines.finetune.parallel.buckets import GradientBuckets
from pipelines.finetune.parallel.collectives.interface import Started
from pipelines.finetune.starting_model import build_starting_model
from pipelines.finetune.worker import train_rank
from pipelines.storage import Folder
from tests.finetune.data import VOCABULARY, WITHOUT_DROPOUT, make_training
from tests.finetune.ranks import alone, run_processes
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
    from torch._inductor import config

    monkeypatch.setenv("PATH", str(tmp_path))
    execution = make_training(root, compile=True).execution
    with pytest.raises(ImportError, match=r"needs a C\+\+ compiler .* ranks, and g\+\+ is not here"):
        require_compiler(execution, CPU)
    message = r"icpx is not here; install it, or set finetune\.compile=false"
    with config.patch({"cpp.cxx": (None, "icpx")}), pytest.raises(ImportError, match=message):
        train_rank(make_training(root, compile=True), alone())
    require_compiler(make_training(root).execution, CPU)


def fill_buckets(training):
    """The gradients of a batch, and how many buckets left before backward ended."""
    torch.manual_seed(0)
    tokenizer = read_tokenizer(training.data.tokenizers, training.spec.tokenizer)
    model = build_starting_model(training, tokenizer=tokenizer, device=CPU, load_weights=True)
    sent = []
    gradients = GradientBuckets(
        model, lambda bucket, name: sent.append(name) or Started(lambda: None), with_flags=True
    )
    gradients.begin()
    gradients.begin_last_pass()
    ids = torch.arange(24).view(2, 12)
    model.train()(input_ids_BT=ids, attention_mask_BT=torch.ones_like(ids)).square().sum().backward()
    return {name: each.grad.clone() for name, each in model.named_parameters()}, len(sent)


def train_compiled(world, eager, compiled, cache):
    """Train with compiled layers; graphs that were compiled, and what `fill_buckets` gives for both."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
    buckets.BUCKET_BYTES = 20_000  # several
    train_rank(compiled, world)
    from torch._dynamo.utils import counters

    graphs = counters["stats"]["unique_graphs"]
    (first, num_first), (second, num_second) = (fill_buckets(each) for each in (eager, compiled))
    assert num_first == num_second > 1
    assert first.keys() == second.keys()
    for name, gradient in first.items():
        torch.testing.assert_close(second[name], gradient, rtol=1e-3, atol=1e-4)
    return graphs, [*second]


@pytest.mark.soak
def test_a_compiled_training_is_the_same_training(root, tmp_path):
    """Without and with compiled layers, which recompute their activations. Most of the time is compiling."""
    settings = {"config": WITHOUT_DROPOUT, "num_epochs": 1.0}
    eager = make_training(root, folder=str(root / "eager"), **settings)
    compiled = make_training(
        root, folder=str(root / "compiled"), compile=True, activation_checkpointing=True, **settings
    )
    train_rank(eager, alone())
    ((graphs, names),) = run_processes(
        train_compiled, eager, compiled, str(tmp_path / "inductor"), num_ranks=1
    )
    assert 1 <= graphs <= 4  # each of both layers: training, recomputed, evaluation, and the small probe
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
        assert first.keys() == second.keys() == {*names}
        for name, weight in first.items():
            torch.testing.assert_close(second[name], weight, rtol=1e-2, atol=1e-3)


def test_a_compiler_that_fails_ends_the_training_before_it_starts(root):
    from torch._inductor import config

    message = r"finetune\.compile=true: torch can't compile for cpu on this machine"
    with config.patch({"cpp.cxx": ("false",)}), pytest.raises(ImportError, match=message):
        train_rank(make_training(root, compile=True), alone())
    assert not (root / "run/events").exists()
