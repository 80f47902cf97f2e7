from pathlib import Path

import pytest
import torch
from torch import nn

from pipelines.finetune.checkpoint.whole import Progress, load_checkpoint, newest_checkpoint, save_checkpoint
from pipelines.finetune.optimizer import Optimization, build_optimizer
from pipelines.storage import Folder


def trained(steps: int):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    optimizer = build_optimizer(model, Optimization(learning_rate=0.1))
    for step in range(steps):
        optimizer.zero_grad()
        model(torch.full((1, 3), step + 1.0)).sum().backward()
        optimizer.step()
    return model, optimizer


def at(step: int, best: int = -1) -> Progress:
    return Progress(step=step, best_step=best, best_value=0.5)


@pytest.fixture
def folder(tmp_path):
    return Folder(str(tmp_path / "checkpoints"))


def test_training_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(folder):
    save_checkpoint(folder, *trained(2), at(2))
    model, optimizer = trained(0)
    load_checkpoint(folder, 2, model, optimizer)
    optimizer.zero_grad()
    model(torch.full((1, 3), 3.0)).sum().backward()
    optimizer.step()
    for ours, theirs in zip(model.parameters(), trained(3)[0].parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_what_a_killed_writer_left_is_not_a_checkpoint(folder, tmp_path):
    for step in (2, 4):
        save_checkpoint(folder, *trained(step), at(step))
    (tmp_path / "checkpoints" / "step-00000004" / "complete.json").unlink()
    assert newest_checkpoint(folder) == at(2)


def test_a_spoiled_checkpoint_gives_way_to_the_one_before(folder, tmp_path, caplog):
    for step in (2, 4):
        save_checkpoint(folder, *trained(step), at(step))
    file = tmp_path / "checkpoints" / "step-00000004" / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert newest_checkpoint(folder) == at(2)
    assert "does not match its sha256" in caplog.text


def test_only_the_newest_two_and_the_best_are_kept(folder):
    for step in range(1, 7):
        save_checkpoint(folder, *trained(1), at(step, best=2 if step >= 2 else 1))
    assert folder.names() == ["step-00000002", "step-00000005", "step-00000006"]


def test_no_checkpoint_means_from_the_beginning(folder):
    assert newest_checkpoint(folder) is None


def test_a_checkpoint_of_another_model_is_refused(folder):
    save_checkpoint(folder, *trained(1), at(1))
    with pytest.raises(ValueError, match="is of another model"):
        load_checkpoint(folder, 1, nn.Sequential(nn.Linear(3, 3)))


def test_tied_weights_are_stored_once_and_come_back(folder):
    model = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
    model["b"].weight = model["a"].weight
    save_checkpoint(folder, model, build_optimizer(model, Optimization()), at(1))
    other = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
    other["b"].weight = other["a"].weight
    load_checkpoint(folder, 1, other)
    assert torch.equal(other["b"].weight, model["a"].weight)


def test_a_checkpoint_that_lost_a_file_is_passed_over(folder):
    for step in (2, 4):
        save_checkpoint(folder, *trained(step), at(step))
    (Path(folder.path) / "step-00000004" / "optimizer.safetensors").unlink()
    assert newest_checkpoint(folder) == at(2)
