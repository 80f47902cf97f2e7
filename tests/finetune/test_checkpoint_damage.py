"""What a checkpoint says about its files, against what is in them."""

import pytest
import torch
from torch import nn

from pipelines.finetune.checkpoint.format import (
    DamagedCheckpointError,
    Piece,
    TrainState,
    list_steps,
    read_record,
)
from pipelines.finetune.checkpoint.part import Part, model_tensors, whole_part
from pipelines.finetune.checkpoint.reading import load_weights, read_pieces
from pipelines.storage import Folder
from tests.finetune.checkpoints import write_part


def test_a_damaged_name_in_a_file_is_damage(tmp_path):
    checkpoints, model = Folder(str(tmp_path)), nn.Linear(4, 8)
    piece = Piece("weight", 0, 32)
    write_part(checkpoints, whole_part(model, {piece: {"mean": torch.zeros(32)}}), TrainState(step=5))
    file = tmp_path / "step-00000005" / "optimizer-00000-of-00001.safetensors"
    file.write_bytes(file.read_bytes().replace(b"@0:32", b"@p:32"))
    with pytest.raises(DamagedCheckpointError, match="step-00000005 has a tensor 'weight@p:32/mean'"):
        read_pieces(checkpoints, read_record(checkpoints, 5), [piece])


def test_weights_in_pieces_are_of_the_same_shapes(tmp_path):
    checkpoints, model = Folder(str(tmp_path)), nn.Linear(4, 8)
    tensors = model_tensors(model)
    pieces = {Piece(name, 0, each.numel()): each.reshape(-1) for name, each in tensors.items()}
    shapes = {name: list(each.shape) for name, each in tensors.items()}
    write_part(checkpoints, Part(weight_pieces=pieces, shapes=shapes), TrainState(step=5))
    load_weights(checkpoints, read_record(checkpoints, 5), nn.Linear(4, 8))
    with pytest.raises(ValueError, match=r"of another model: .*unexpected \['weight'"):
        load_weights(checkpoints, read_record(checkpoints, 5), nn.Linear(8, 4, bias=False))


def test_only_complete_checkpoints_are_counted_as_kept(tmp_path):
    checkpoints = Folder(str(tmp_path))
    for step in (100, 200):
        write_part(checkpoints, whole_part(nn.Linear(2, 2), {}), TrainState(step=step))
    checkpoints.write("step-00000250/model.safetensors", b"of a killed launch")
    write_part(checkpoints, whole_part(nn.Linear(2, 2), {}), TrainState(step=300))
    assert list_steps(checkpoints) == [200, 300]
