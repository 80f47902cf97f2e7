"""Checkpoints of a small model: whole and in pieces."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from pipelines.finetune.average import WeightAverage
from pipelines.finetune.checkpoint import format as checkpoint_format
from pipelines.finetune.checkpoint import reading
from pipelines.finetune.checkpoint.format import DamagedCheckpointError, Piece, TrainState
from pipelines.finetune.checkpoint.part import Part, whole_part
from pipelines.finetune.checkpoint.private import ANCHOR, OWN, read_private
from pipelines.finetune.optimization import Optimization
from pipelines.finetune.optimizer import build_optimizer, list_trainable
from pipelines.finetune.parallel.replica import (
    _forget_missing_best,
    optimizer_states,
    prepare_model,
    read_states,
    whole_pieces,
)
from pipelines.finetune.parallel.single import SingleProcess
from pipelines.storage import Folder
from tests.finetune.checkpoints import write_part, write_parts


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


def save(folder, step, best=-1, *, in_background=False):
    model, optimizer = trained(step)
    state = TrainState(step=step, best_step=best, best_value=0.5)
    part = whole_part(model, optimizer_states(optimizer, whole_pieces(model)))
    write_part(folder, part, state, in_background=in_background)


def load(folder, step, model, optimizer=None):
    record = checkpoint_format.read_record(folder, step)
    reading.load_weights(folder, record, model)
    if optimizer is not None:
        owned = whole_pieces(model)
        read_states(folder, record, optimizer, owned, WeightAverage(owned, Optimization()))


@pytest.fixture
def folder(tmp_path):
    return Folder(str(tmp_path / "checkpoints"))


@pytest.mark.parametrize("in_background", [False, True])
def test_training_continues_as_if_it_had_not_stopped(folder, in_background):
    save(folder, 2, in_background=in_background)
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
    with pytest.raises(
        ValueError, match=r"step-00000001 is of another model: missing \[\], unexpected \['1.bias \[2\]'"
    ):
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
    write_part(folder, whole_part(model, {}), TrainState(step=1))
    record = checkpoint_format.read_record(folder, 1)
    assert list(reading.read_file(folder, record, checkpoint_format.MODEL_FILE)) == ["a.weight"]
    load(folder, 1, other)
    assert torch.equal(other["b"].weight, model["a"].weight)


def piece_state(piece):
    """State whose values are the numbers of the elements."""
    return {"step": torch.tensor(7.0), "exp_avg": torch.arange(piece.start, piece.stop, dtype=torch.float64)}


def save_shards(folder, *shards, **fields):
    parts = [
        Part(
            weights={} if rank == 0 else None,
            states={piece: piece_state(piece) for piece in pieces},
            number=rank,
            num_parts=len(shards),
            **fields,
        )
        for rank, pieces in enumerate(shards)
    ]
    assert write_parts(folder, parts, TrainState(step=1)) == [None] * len(parts)
    return checkpoint_format.read_record(folder, 1)


def test_pieces_can_be_cut_at_other_places(folder):
    record = save_shards(folder, [Piece("a@1:2/x", 0, 4)], [Piece("a@1:2/x", 4, 10), Piece("b", 0, 3)])
    wanted = [Piece("a@1:2/x", 0, 10), Piece("a@1:2/x", 3, 5), Piece("b", 1, 2), Piece("c", 0, 9)]
    found = reading.read_pieces(folder, record, wanted)
    assert found.pop(wanted[-1]) == {}  # never got a gradient
    for piece, state in found.items():
        assert state["exp_avg"].tolist() == list(range(piece.start, piece.stop))
        assert state["step"] == 7


def test_only_the_files_that_are_needed_are_read(folder):
    record = save_shards(folder, [Piece("a", 0, 4)], [Piece("a", 4, 10)])
    folder.delete("step-00000001/optimizer-00001-of-00002.safetensors")
    assert reading.read_pieces(folder, record, [Piece("a", 1, 4)])[Piece("a", 1, 4)]["exp_avg"].tolist() == [
        1,
        2,
        3,
    ]
    with pytest.raises(DamagedCheckpointError, match=r"optimizer-00001-of-00002\.safetensors is missing"):
        reading.read_pieces(folder, record, [Piece("a", 1, 5)])


def test_a_gap_between_pieces_is_noticed(folder):
    record = save_shards(folder, [Piece("a", 0, 4)], [Piece("a", 5, 10)])
    with pytest.raises(DamagedCheckpointError, match=r"state of a ends at element 4 of \[0, 10\)"):
        reading.read_pieces(folder, record, [Piece("a", 0, 10)])


def test_a_best_checkpoint_that_is_gone_is_forgotten(tmp_path):
    state, alone = TrainState(step=9, best_step=5, best_value=0.5), SingleProcess(torch.device("cpu"))
    assert _forget_missing_best(alone, Folder(str(tmp_path)), state).best_step == -1
    (tmp_path / "step-00000005").mkdir()
    (tmp_path / "step-00000005" / "complete.json").write_text("{}")
    assert _forget_missing_best(alone, Folder(str(tmp_path)), state) == state


def test_buffers_that_are_views_are_read_too(folder):
    def build(load_weights):
        model = nn.Linear(2, 2)
        model.register_buffer("positions", torch.full((1, 1), float(load_weights)).expand(3, 4))
        return model

    alone = SingleProcess(torch.device("cpu"))
    write_part(folder, whole_part(prepare_model(alone, build, folder), {}), TrainState(step=1))
    other = prepare_model(alone, build, folder)  # a checkpoint is there: without weights
    assert other.positions.sum() == 0
    load(folder, 1, other)
    assert other.positions.tolist() == [[1.0] * 4] * 3


def save_weight_pieces(folder, *shards):
    """Weights 0, 1, 2, ... in pieces by rank."""
    parts = [
        Part(
            weight_pieces={piece: torch.arange(piece.start, piece.stop).double() for piece in pieces},
            number=rank,
            num_parts=len(shards),
        )
        for rank, pieces in enumerate(shards)
    ]
    assert write_parts(folder, parts, TrainState(step=1)) == [None] * len(parts)
    return checkpoint_format.read_record(folder, 1)


def read_weight_pieces(folder, record, *wanted):
    places = {piece: torch.full((piece.stop - piece.start,), -1.0).double() for piece in wanted}
    reading.load_weight_pieces(folder, record, places)
    return [values.tolist() for values in places.values()]


def test_pieces_of_weights_are_cut_at_other_places(folder):
    record = save_weight_pieces(folder, [Piece("a", 0, 4)], [Piece("a", 4, 10), Piece("b", 0, 1)])
    wanted = [Piece("a", 3, 6), Piece("a", 6, 10), Piece("b", 0, 1)]
    assert read_weight_pieces(folder, record, *wanted) == [[3, 4, 5], [6, 7, 8, 9], [0]]
    with pytest.raises(ValueError, match=r"is of another model: missing \['c'\].*; train in a new folder"):
        read_weight_pieces(folder, record, Piece("c", 0, 1))
    folder.delete("step-00000001/model-00001-of-00002.safetensors")
    assert read_weight_pieces(folder, record, Piece("a", 1, 4)) == [[1, 2, 3]]  # it needs one file
    with pytest.raises(DamagedCheckpointError, match=r"model-00001-of-00002\.safetensors is missing"):
        read_weight_pieces(folder, record, Piece("a", 1, 5))


def test_a_gap_between_pieces_of_weights_is_noticed(folder):
    record = save_weight_pieces(folder, [Piece("a", 0, 4)], [Piece("a", 5, 10)])
    with pytest.raises(DamagedCheckpointError, match=r"state of a ends at element 4 of \[2, 7\)"):
        read_weight_pieces(folder, record, Piece("a", 2, 7))


def test_whole_weights_are_cut_for_a_rank_that_holds_pieces(folder):
    model = nn.Linear(2, 3).double()
    write_part(folder, whole_part(model, {}), TrainState(step=1))
    record = checkpoint_format.read_record(folder, 1)
    pieces = [Piece("weight", 2, 5), Piece("weight", 5, 6), Piece("bias", 1, 3)]
    weight, bias = model.weight.flatten().tolist(), model.bias.tolist()
    assert read_weight_pieces(folder, record, *pieces) == [weight[2:5], weight[5:], bias[1:]]
    with pytest.raises(ValueError, match=r"missing \['other'\], unexpected \[\]; train in a new folder"):
        read_weight_pieces(folder, record, Piece("other", 0, 1))
    with pytest.raises(ValueError, match=r"missing \['bias'\], unexpected \['bias \[3\]'\]"):
        read_weight_pieces(folder, record, Piece("bias", 2, 4))


def test_another_number_of_ranks_goes_on_with_the_mean_of_private_states(folder):
    piece, unused = Piece("a", 0, 2), Piece("b", 0, 1)
    parts = []
    for rank in range(3):
        state = {"step": torch.tensor(4.0), "exp_avg": torch.tensor([rank, 3.0 * rank])}
        state |= {OWN: torch.full((2,), float(rank))} | ({ANCHOR: torch.ones(2)} if rank == 0 else {})
        weights = {} if rank == 0 else None
        states = {piece: state, unused: {}}
        parts.append(Part(weights=weights, states=states, is_private=True, number=rank, num_parts=3))
    assert write_parts(folder, parts, TrainState(step=1)) == [None] * 3
    record = checkpoint_format.read_record(folder, 1)
    own = read_private(folder, record, [piece, unused], 2, 3)
    assert (own[piece]["exp_avg"].tolist(), own[piece][OWN].tolist(), own[unused]) == ([2, 6], [2, 2], {})
    for rank in range(2):
        found = read_private(folder, record, [piece, unused], rank, 2)
        assert (found[piece]["exp_avg"].tolist(), float(found[piece]["step"])) == ([1, 3], 4)
        sent = {ANCHOR} if rank == 0 else set()  # rank 0 sends it
        assert (found[piece].keys() - {"exp_avg", "step"}, found[unused]) == (sent, {})
    with pytest.raises(ValueError, match=r"an optimizer for each rank; continue with .*local_sgd, or train"):
        reading.read_pieces(folder, record, [piece])
