"""A checkpoint written by one rank: for strategies in which every rank holds everything."""

from torch import nn

from pipelines.finetune.checkpoint.format import (
    MODEL_FILE,
    Piece,
    PieceState,
    Record,
    TrainState,
    find_base,
    model_tensors,
    optimizer_file,
    piece_tensors,
    write_file,
    write_record,
)
from pipelines.storage import Folder


def save_whole(
    checkpoints: Folder, model: nn.Module, optimizer_state: dict[Piece, PieceState], state: TrainState
) -> None:
    """Write the checkpoint of `state.step`. One rank calls it."""
    file = optimizer_file(0, 1)
    sha256 = {
        MODEL_FILE: write_file(checkpoints, state.step, MODEL_FILE, model_tensors(model)),
        file: write_file(checkpoints, state.step, file, piece_tensors(optimizer_state)),
    }
    pieces = {file: list(optimizer_state)}
    write_record(checkpoints, Record(state=state, sha256=sha256, pieces=pieces, base=find_base(model)))
