"""Optimizer state of which each rank has its own, in whole parameters: file r is that of rank r."""

from collections.abc import Iterable

from torch import Tensor

from pipelines.finetune.checkpoint.format import (
    Piece,
    PieceState,
    Record,
    optimizer_file,
    parse_piece_tensors,
    read_file,
)
from pipelines.finetune.checkpoint.sharded import read_pieces
from pipelines.storage import Folder

OWN = "own_weight"
"""Field with the weights of one rank, where the model of the checkpoint is the mean of all ranks."""
ANCHOR, MOMENTUM = "common_weight", "outer_momentum"
"""Fields of rank 0's file that are of all ranks: the weights of their last synchronisation, and the momentum
of the outer steps."""


def read_private(
    checkpoints: Folder, record: Record, wanted: Iterable[Piece], rank: int, num_ranks: int
) -> dict[Piece, PieceState]:
    """What `rank` goes on with: its own state if as many ranks wrote it, else the mean of theirs, without
    OWN. A checkpoint of another strategy has one state for all.

    Of the mean, files are read one after the other. Raises DamagedCheckpointError for a damaged file.
    """
    if not record.private:
        return read_pieces(checkpoints, record, wanted)
    num_files = len(record.pieces)
    if num_files == num_ranks:
        return _read(checkpoints, record, rank, num_files)
    total: dict[Piece, PieceState] = {}
    counts: dict[Piece, int] = {}
    for number in range(num_files):
        for piece, state in _read(checkpoints, record, number, num_files).items():
            fields = {name: each for name, each in state.items() if name not in (OWN, ANCHOR, MOMENTUM)}
            counts[piece] = counts.get(piece, 0) + bool(fields)
            mine = total.setdefault(piece, {})
            for name, value in fields.items():
                mine[name] = mine[name] + value if name in mine else value
            if rank == 0:  # who sends them to the others
                mine |= {name: state[name] for name in (ANCHOR, MOMENTUM) if name in state}
    return {piece: _divide(state, counts[piece]) for piece, state in total.items()}


def _divide(state: PieceState, count: int) -> PieceState:
    def divide(name: str, value: Tensor) -> Tensor:
        return value if name in (ANCHOR, MOMENTUM) else value / count

    return {name: divide(name, value) for name, value in state.items()}


def _read(checkpoints: Folder, record: Record, rank: int, num_files: int) -> dict[Piece, PieceState]:
    return parse_piece_tensors(read_file(checkpoints, record, optimizer_file(rank, num_files)))
