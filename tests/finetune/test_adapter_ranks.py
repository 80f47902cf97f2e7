"""Adapters on several ranks: as on one, in float64 to 1e-12; each rank reads the base itself."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch

from pipelines.finetune.models.adapter import Adapter
from pipelines.finetune.models.architecture import Architecture
from pipelines.finetune.models.build import build_model
from pipelines.finetune.models.lora import find_backbone, read_state
from pipelines.finetune.worker import train_rank
from tests.conftest import TINY_ENCODER
from tests.finetune.data import VOCABULARY, WITHOUT_DROPOUT, make_training
from tests.finetune.ranks import BACKENDS, RankDiedError, alone, run_processes
from tests.finetune.test_strategies import STEPS, assert_equal, build_double, double_training, run_steps
from tests.finetune.test_train import die_after_checkpoint, read_events, train_in

pytestmark = [pytest.mark.slow, pytest.mark.horovod]

CONFIG = {**TINY_ENCODER, **WITHOUT_DROPOUT}
DECODER = {
    # Not Llama: its norms compute in float32.
    "model_type": "gpt2",
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 64,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}


def adapted(root, name, kind, **changes):
    """A training in float64, from scratch or on a base: an encoder with a head, or a decoder without one."""
    config = DECODER if changes.get("task") == "language_modelling" else CONFIG
    adapter = Adapter(kind=kind, rank=4, **({"prefix_tokens": 3} if kind == "prefix" else {}))
    architecture = Architecture(config=config, adapter=adapter if adapter.merge else Adapter())
    training = double_training(root, name, architecture=architecture, **changes)
    if not adapter.merge:  # it needs a base that is found again
        base = root / f"base of {training.spec.task}"
        if not base.is_dir():
            module = build_model(architecture, training.spec, vocab_size=VOCABULARY, seed=4)
            find_backbone(module)[1].save_pretrained(base)
        training = replace(training, architecture=Architecture(base=str(base), adapter=adapter))
    return training


def require_that_only_the_adapter_moved(result, training):
    """Else the comparison would prove little."""
    new = {name: each.numpy() for name, each in build_double(training, True).state_dict().items()}
    moved = {name for name, weights in result["weights"].items() if not np.array_equal(weights, new[name])}
    assert moved == set(read_state(build_double(training, True)))
    assert len(moved) < len(new)


ONE = {}
"""The steps by one process, by task and kind of adapter."""
CLASSES, TEXT = "classification", "language_modelling"
CASES = [
    (CLASSES, "lora", "data_parallel", "horovod", 2),
    (CLASSES, "lora", "data_parallel", "horovod", 4),
    (CLASSES, "lora", "sharded_optimizer", "torch", 4),
    (CLASSES, "dora", "data_parallel", "torch", 4),
    (TEXT, "lora", "data_parallel", "torch", 4),
    (TEXT, "dora", "sharded_optimizer", "horovod", 2),
    (CLASSES, "adalora", "data_parallel", "horovod", 2),
    (TEXT, "adalora", "data_parallel", "torch", 2),
    (CLASSES, "bottleneck", "data_parallel", "torch", 2),
    (TEXT, "bottleneck", "sharded_optimizer", "horovod", 2),
    (CLASSES, "prefix", "sharded_optimizer", "torch", 2),
    (TEXT, "prefix", "data_parallel", "horovod", 2),
    (CLASSES, "dora", "fully_sharded", "torch", 4),
    *(
        pytest.param(task, kind, "fully_sharded", "torch", 2, marks=pytest.mark.soak)
        for task, kind in [(TEXT, "lora"), (CLASSES, "bottleneck"), (TEXT, "prefix")]
    ),
]


@pytest.mark.parametrize(("task", "kind", "strategy", "backend", "num_ranks"), CASES)
def test_ranks_equal_one_process(request, task, kind, strategy, backend, num_ranks):
    root = request.getfixturevalue("root" if task == CLASSES else "text_root")
    alone_training = adapted(root, "one", kind, task=task)
    if (task, kind) not in ONE:
        ONE[task, kind] = run_steps(alone(), alone_training)
    one = ONE[task, kind]
    require_that_only_the_adapter_moved(one, alone_training)
    training = adapted(root, "ranks", kind, task=task, strategy=strategy, collectives=backend)
    results = run_processes(run_steps, training, num_ranks=num_ranks, backend=backend)
    assert_equal(results[0], one)
    assert one["curve"][-1, 0] < one["curve"][0, 0]
    if kind == "adalora":
        require_a_choice(one["weights"])


def require_a_choice(weights):
    """After the last step the budget is kept: 4 of 6 directions of a layer on average, not of each."""
    kept = [int((each != 0).sum()) for name, each in weights.items() if "lora_E" in name]
    assert sum(kept) == 4 * len(kept)
    assert len(set(kept)) > 1


@pytest.mark.parametrize("kind", ["lora", "adalora"])
def test_a_checkpoint_continues_under_another_number_of_ranks(root, kind):
    one = run_steps(alone(), adapted(root, "one", kind, global_batch=12))
    names = ("sharded_optimizer", "fully_sharded") if kind == "lora" else ("data_parallel", "data_parallel")
    before, middle = ({"strategy": name, "collectives": "torch"} for name in names)
    for changes, num_ranks, steps in (
        (before, 3, range(7)),
        ({}, 1, range(7, 12)),
        (middle, 2, range(12, 17)),
        ({"strategy": "data_parallel"}, 2, range(17, STEPS)),
    ):
        training = adapted(root, "parts", kind, global_batch=12, **changes)
        backend = changes.get("collectives", "horovod")
        found = run_processes(run_steps, training, steps, num_ranks=num_ranks, backend=backend)[0]
        assert found["began"] == steps.start
    assert_equal(found, one)


def write_base(root, name, *, seed):
    training = make_training(root, config=WITHOUT_DROPOUT)
    module = build_model(training.architecture, training.spec, vocab_size=VOCABULARY, seed=seed)
    module.encoder.save_pretrained(root / name)


def on_base(root, name, folder, **changes):
    """A training of an adapter with dropout on a base folder."""
    architecture = Architecture(base=str(folder), adapter=Adapter(kind="lora", rank=4, dropout=0.1))
    return make_training(root, folder=str(root / name), architecture=architecture, **changes)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_killed_rank_changes_nothing_in_the_end(root, backend):
    write_base(root, "base", seed=4)
    changes = {"collectives": backend, "strategy": "data_parallel"}
    killed, whole = (on_base(root, name, root / "base", **changes) for name in ("killed", "whole"))
    marker = str(root / "was killed")
    with pytest.raises(RankDiedError, match="rank 1: rank died with exit code -9"):
        run_processes(die_after_checkpoint, killed, marker, num_ranks=2, backend=backend)
    again = run_processes(die_after_checkpoint, killed, marker, num_ranks=2, backend=backend)[0]
    expected = run_processes(train_in, whole, num_ranks=2, backend=backend)[0]
    notes = [event["text"] for event in read_events(root / "killed") if event["kind"] == "note"]
    assert any("continues from the checkpoint of step" in text for text in notes)
    assert again["weights"] == expected["weights"]
    assert again["after"] == expected["after"]


def train_on_own_base(world, root):
    """Rank 1 finds other values under the same name, as on a machine with an older copy."""
    from pathlib import Path

    here = Path(root) / "base"
    if world.rank == 1:
        here = Path(root) / "of rank 1" / "base"
    return train_rank(on_base(Path(root), "run", here), world)


def test_ranks_that_read_different_bases_are_refused(root):
    write_base(root, "base", seed=4)
    shutil.copytree(root / "base", root / "of rank 1" / "base")
    assert run_processes(train_on_own_base, str(root), num_ranks=2)[0]["total_steps"] == 30
    shutil.rmtree(root / "run")
    file = root / "of rank 1" / "base" / "model.safetensors"
    weights = safetensors.torch.load_file(file)
    weights["encoder.layer.1.output.dense.weight"][0, 0] += 1e-6
    safetensors.torch.save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(
        RankDiedError, match=r"rank 1 read other base weights from .*base than rank 0; make the"
    ):
        run_processes(train_on_own_base, str(root), num_ranks=2)
