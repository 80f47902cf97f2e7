"""The weights of a checkpoint, whole or in pieces, for readers that hold them whole or in pieces.

A rank that holds no whole weights writes pieces of them, as of the optimizer state. Files are read one after
the other, so beside what the reader holds there is one file in memory at a time.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Size, Tensor

from pipelines.finetune.checkpoint.format import (
    MODEL_FILE,
    DamagedCheckpointError,
    Piece,
    Record,
    parse_piece_tensors,
    piece_tensors,
    read_file,
)
from pipelines.storage import Folder

VALUE = "value"
"""Name of the weights in the tensors of a file of pieces."""


def weights_file(rank: int, num_files: int) -> str:
    return f"model-{rank:05d}-of-{num_files:05d}.safetensors"


def weight_tensors(weights: Mapping[Piece, Tensor]) -> dict[str, Tensor]:
    """Pieces of weights, flat, under the names of a file of pieces."""
    return piece_tensors({piece: {VALUE: tensor} for piece, tensor in weights.items()})


def read_weights(checkpoints: Folder, record: Record, shapes: Mapping[str, Size]) -> dict[str, Tensor]:
    """All weights by name, whole. `shapes`: those of the model; a name that it does not have stays flat.

    Raises DamagedCheckpointError if a file is damaged or a weight has gaps.
    """
    if not record.weights:
        return read_file(checkpoints, record, MODEL_FILE)
    ends: dict[str, int] = {}
    for piece in _list_pieces(record):
        ends[piece.name] = max(piece.stop, ends.get(piece.name, 0))
    whole: dict[str, Tensor] = {}
    for file in record.weights:
        for piece, state in parse_piece_tensors(read_file(checkpoints, record, file)).items():
            if piece.name not in whole:
                whole[piece.name] = torch.empty(ends[piece.name], dtype=state[VALUE].dtype)
            whole[piece.name][piece.start : piece.stop] = state[VALUE]
    for name, tensor in whole.items():
        _require_cover(name, tensor.numel(), (each for each in _list_pieces(record) if each.name == name))
        if name in shapes and shapes[name].numel() == tensor.numel():
            whole[name] = tensor.view(shapes[name])
    return whole


def read_weight_pieces(checkpoints: Folder, record: Record, wanted: Iterable[Piece]) -> dict[Piece, Tensor]:
    """The flat values of every wanted piece. Of files of pieces, those are read that hold a part of one.

    Raises DamagedCheckpointError if a file is damaged or a piece has gaps, ValueError if the checkpoint is of
    a model of other names.
    """
    wanted = list(wanted)
    names = {piece.name for piece in _list_pieces(record)}
    whole = None if record.weights else read_file(checkpoints, record, MODEL_FILE)
    lacking = sorted({piece.name for piece in wanted} - (names if whole is None else whole.keys()))
    if lacking:
        raise ValueError(
            f"checkpoint {checkpoints.path} is of another model: missing {lacking[:3]}; train in a new folder"
        )
    if whole is not None:
        return {piece: whole[piece.name].reshape(-1)[piece.start : piece.stop].clone() for piece in wanted}
    found: dict[Piece, Tensor] = {}
    for file, held in record.weights.items():
        cuts = [(piece, each) for piece in wanted for each in held if _overlap(piece, each) is not None]
        if not cuts:
            continue
        states = parse_piece_tensors(read_file(checkpoints, record, file))
        for piece, each in cuts:
            start, stop = max(piece.start, each.start), min(piece.stop, each.stop)
            values = states[each][VALUE][start - each.start : stop - each.start]
            if piece not in found:
                found[piece] = torch.empty(piece.stop - piece.start, dtype=values.dtype)
            found[piece][start - piece.start : stop - piece.start] = values
    for piece in wanted:
        overlaps = (_overlap(piece, each) for each in _list_pieces(record))
        _require_cover(piece.name, piece.stop, filter(None, overlaps), start=piece.start)
    return found


def _list_pieces(record: Record) -> list[Piece]:
    return [piece for pieces in record.weights.values() for piece in pieces]


def _overlap(one: Piece, other: Piece) -> Piece | None:
    start, stop = max(one.start, other.start), min(one.stop, other.stop)
    return Piece(one.name, start, stop) if one.name == other.name and start < stop else None


def _require_cover(name: str, stop: int, pieces: Iterable[Piece], *, start: int = 0) -> None:
    covered = start
    for piece in sorted(pieces, key=lambda each: each.start):
        if piece.start <= covered:
            covered = max(covered, piece.stop)
    if covered < stop:
        raise DamagedCheckpointError(f"the weights of {name} end at element {covered} of [{start}, {stop})")
