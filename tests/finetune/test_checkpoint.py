"""Checkpoints of a small model: whole and in pieces."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from pipelines.finetune.checkpoint import format as checkpoint_format
from pipelines.finetune.checkpoint import sharded
from pipelines.finetune.checkpoint.format import DamagedCheckpointError, Piece, TrainState
from pipelines.finetune.checkpoint.private import ANCHOR, OWN, read_private
from pipelines.finetune.checkpoint.weights import read_weight_pieces, read_weights
from pipelines.finetune.checkpoint.whole import save_whole
from pipelines.finetune.optimization import Optimization
from pipelines.finetune.optimizer import build_optimizer, list_trainable
from pipelines.finetune.parallel.replica import (
    _forget_missing_best,
    optimizer_states,
    set_optimizer_states,
    whole_pieces,
)
from pipelines.finetune.parallel.single import SingleProcess
from pipelines.storage import Folder


def trained(steps):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    optimizer = build_optimizer(list_trainable(model), Optimization(learning_rate=0.1))
    for step in range(steps):
        train_once(model, optimizer, step)
    return model, optimizer


def train_once(model, optimizer, step):
    optimizer.zero_grad()
    model(torch.full((1, 3), step + 1.0)).sum().backward()
    optimizer.step()


def save(folder, step, best=-1):
    model, optimizer = trained(step)
    state = TrainState(step=step, best_step=best, best_value=0.5)
    save_whole(folder, model, optimizer_states(optimizer, whole_pieces(model)), state)


def load(folder, step, model, optimizer=None):
    record = checkpoint_format.read_record(folder, step)
    checkpoint_format.load_model_tensors(
        model, checkpoint_format.read_file(folder, record, checkpoint_format.MODEL_FILE), "it"
    )
    if optimizer is not None:
        owned = whole_pieces(model)
        set_optimizer_states(optimizer, owned, sharded.read_pieces(folder, record, owned))


@pytest.fixture
def folder(tmp_path):
    return Folder(str(tmp_path / "checkpoints"))


def test_training_continues_as_if_it_had_not_stopped(folder):
    save(folder, 2)
    model, optimizer = trained(0)
    load(folder, 2, model, optimizer)
    train_once(model, optimizer, 2)
    for ours, theirs in zip(model.parameters(), trained(3)[0].parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_an_unfinished_checkpoint_is_ignored(folder, tmp_path):
    for step in (2, 4):
        save(folder, step)
    (tmp_path / "checkpoints" / "step-00000004" / "complete.json").unlink()
    assert checkpoint_format.complete_steps(folder) == [2]


@pytest.mark.parametrize("fault", ["changed", "missing"])
def test_a_damaged_file_is_noticed(folder, fault):
    save(folder, 2)
    file = Path(folder.path) / "step-00000002" / "optimizer-00000-of-00001.safetensors"
    content = file.read_bytes()
    file.unlink()
    if fault == "changed":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 255]))
    model, optimizer = trained(0)
    with pytest.raises(DamagedCheckpointError, match=r"optimizer-00000-of-00001\.safetensors"):
        load(folder, 2, model, optimizer)


def test_the_newest_two_and_the_best_are_kept(folder):
    for step in range(1, 7):
        save(folder, step, best=2 if step >= 2 else 1)
    assert folder.names() == ["step-00000002", "step-00000005", "step-00000006"]


def test_another_model_is_refused(folder):
    save(folder, 1)
    with pytest.raises(ValueError, match="checkpoint it is of another model"):
        load(folder, 1, nn.Sequential(nn.Linear(3, 3)))


def test_an_old_format_is_refused_with_the_remedy(folder):
    folder.write("step-00000003/complete.json", json.dumps({"progress": {"step": 3}, "sha256": {}}).encode())
    with pytest.raises(
        ValueError, match=r"checkpoint format before 3, this version reads 3 and 4; delete .*checkpoints"
    ):
        checkpoint_format.read_record(folder, 3)


def test_tied_weights_are_stored_once(folder):
    def tied():
        model = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
        model["b"].weight = model["a"].weight
        return model

    model, other = tied(), tied()
    save_whole(folder, model, {}, TrainState(step=1))
    assert list(
        checkpoint_format.read_file(
            folder, checkpoint_format.read_record(folder, 1), checkpoint_format.MODEL_FILE
        )
    ) == ["a.weight"]
    load(folder, 1, other)
    assert torch.equal(other["b"].weight, model["a"].weight)


def piece_state(piece):
    """State whose values are the numbers of the elements."""
    return {"step": torch.tensor(7.0), "exp_avg": torch.arange(piece.start, piece.stop, dtype=torch.float64)}


def save_shards(folder, *shards):
    for rank, pieces in enumerate(shards):
        states = {piece: piece_state(piece) for piece in pieces}
        sharded.write_shard(folder, 1, states, rank=rank, num_ranks=len(shards))
    sharded.complete_shards(folder, nn.Linear(1, 1), TrainState(step=1), num_ranks=len(shards))
    return checkpoint_format.read_record(folder, 1)


def test_pieces_can_be_cut_anew(folder):
    record = save_shards(folder, [Piece("a@1:2/x", 0, 4)], [Piece("a@1:2/x", 4, 10), Piece("b", 0, 3)])
    wanted = [Piece("a@1:2/x", 0, 10), Piece("a@1:2/x", 3, 5), Piece("b", 1, 2), Piece("c", 0, 9)]
    found = sharded.read_pieces(folder, record, wanted)
    assert found.pop(wanted[-1]) == {}  # never got a gradient
    for piece, state in found.items():
        assert state["exp_avg"].tolist() == list(range(piece.start, piece.stop))
        assert state["step"] == 7


def test_only_the_files_that_are_needed_are_read(folder):
    record = save_shards(folder, [Piece("a", 0, 4)], [Piece("a", 4, 10)])
    folder.delete("step-00000001/optimizer-00001-of-00002.safetensors")
    assert sharded.read_pieces(folder, record, [Piece("a", 1, 4)])[Piece("a", 1, 4)]["exp_avg"].tolist() == [
        1,
        2,
        3,
    ]
    with pytest.raises(DamagedCheckpointError, match=r"optimizer-00001-of-00002\.safetensors is missing"):
        sharded.read_pieces(folder, record, [Piece("a", 1, 5)])


def test_a_gap_between_pieces_is_noticed(folder):
    record = save_shards(folder, [Piece("a", 0, 4)], [Piece("a", 5, 10)])
    with pytest.raises(DamagedCheckpointError, match=r"optimizer state of a ends at element 4 of \[0, 10\)"):
        sharded.read_pieces(folder, record, [Piece("a", 0, 10)])


def test_a_best_checkpoint_that_is_gone_is_forgotten(tmp_path):
    state, alone = TrainState(step=9, best_step=5, best_value=0.5), SingleProcess(torch.device("cpu"))
    assert _forget_missing_best(alone, Folder(str(tmp_path)), state).best_step == -1
    (tmp_path / "step-00000005").mkdir()
    (tmp_path / "step-00000005" / "complete.json").write_text("{}")
    assert _forget_missing_best(alone, Folder(str(tmp_path)), state) == state


def save_weight_pieces(folder, *shards):
    """Weights 0, 1, 2, ... of a parameter `a` of 2 x 5 elements, in pieces by rank."""
    for rank, pieces in enumerate(shards):
        weights = {piece: torch.arange(piece.start, piece.stop).double() for piece in pieces}
        sharded.write_shard(folder, 1, {}, rank=rank, num_ranks=len(shards), weights=weights)
    sharded.complete_shards(folder, nn.Linear(1, 1), TrainState(step=1), num_ranks=len(shards))
    return checkpoint_format.read_record(folder, 1)


def test_weights_in_pieces_come_together_or_are_cut_anew(folder):
    record = save_weight_pieces(folder, [Piece("a", 0, 4)], [Piece("a", 4, 10), Piece("b", 0, 1)])
    assert json.loads(folder.read("step-00000001/complete.json"))["format"] == 4
    assert not folder.exists("step-00000001/model.safetensors")
    whole = read_weights(folder, record, {"a": torch.Size([2, 5])})
    assert whole["a"].tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    wanted = [Piece("a", 3, 6), Piece("a", 6, 10), Piece("b", 0, 1)]
    for piece, values in read_weight_pieces(folder, record, wanted).items():
        assert values.tolist() == list(range(piece.start, piece.stop))
    with pytest.raises(ValueError, match=r"is of another model: missing \['c'\]; train in a new folder"):
        read_weight_pieces(folder, record, [Piece("c", 0, 1)])


def test_only_the_pieces_of_weights_that_are_needed_are_read(folder):
    record = save_weight_pieces(folder, [Piece("a", 0, 4)], [Piece("a", 4, 10)])
    folder.delete("step-00000001/model-00001-of-00002.safetensors")
    assert read_weight_pieces(folder, record, [Piece("a", 1, 4)])[Piece("a", 1, 4)].tolist() == [1, 2, 3]
    with pytest.raises(DamagedCheckpointError, match=r"model-00001-of-00002\.safetensors is missing"):
        read_weight_pieces(folder, record, [Piece("a", 1, 5)])


def test_a_gap_between_pieces_of_weights_is_noticed(folder):
    record = save_weight_pieces(folder, [Piece("a", 0, 4)], [Piece("a", 5, 10)])
    with pytest.raises(DamagedCheckpointError, match=r"weights of a end at element 4 of \[0, 10\)"):
        read_weights(folder, record, {"a": torch.Size([2, 5])})
    with pytest.raises(DamagedCheckpointError, match=r"weights of a end at element 4 of \[2, 7\)"):
        read_weight_pieces(folder, record, [Piece("a", 2, 7)])


def test_whole_weights_are_cut_for_who_holds_pieces(folder):
    model = nn.Linear(2, 3)
    save_whole(folder, model, {}, TrainState(step=1))
    record = checkpoint_format.read_record(folder, 1)
    assert json.loads(folder.read("step-00000001/complete.json"))["format"] == 3  # earlier versions read it
    found = read_weight_pieces(folder, record, [Piece("weight", 2, 6)])
    assert torch.equal(found[Piece("weight", 2, 6)], model.weight.detach().reshape(-1)[2:])


def test_the_mean_of_private_optimizers_is_for_another_number_of_ranks(folder):
    piece = Piece("a", 0, 2)
    for rank in range(3):
        state = {"step": torch.tensor(4.0), "exp_avg": torch.tensor([rank, 3.0 * rank])}
        state |= {OWN: torch.full((2,), float(rank))} | ({ANCHOR: torch.ones(2)} if rank == 0 else {})
        sharded.write_shard(folder, 1, {piece: state}, rank=rank, num_ranks=3)
    sharded.complete_shards(folder, nn.Linear(1, 1), TrainState(step=1), num_ranks=3, private=True)
    record = checkpoint_format.read_record(folder, 1)
    own = read_private(folder, record, [piece], 2, 3)[piece]
    assert (own["exp_avg"].tolist(), own[OWN].tolist()) == ([2, 6], [2, 2])
    for rank in range(2):
        mean = read_private(folder, record, [piece], rank, 2)[piece]
        assert (mean["exp_avg"].tolist(), float(mean["step"])) == ([1, 3], 4)
        assert mean.keys() - {"exp_avg", "step"} == ({ANCHOR} if rank == 0 else set())  # rank 0 sends it
    with pytest.raises(ValueError, match=r"an optimizer for each rank; continue with .*local_sgd, or train"):
        sharded.read_pieces(folder, record, [piece])
