"""Optimizer state in pieces: each rank writes the pieces it owns, and reads the pieces it needs, no
matter which rank wrote them. So may weights be (weights.py).

Writing has two parts with a barrier of the ranks between them: `write_shard` on every rank, then
`complete_shards` on rank 0.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.finetune.checkpoint.format import (
    MODEL_FILE,
    DamagedCheckpointError,
    Piece,
    PieceState,
    Record,
    TrainState,
    find_base,
    folder_name,
    model_tensors,
    optimizer_file,
    parse_piece_tensors,
    piece_tensors,
    read_file,
    write_file,
    write_record,
)
from pipelines.finetune.checkpoint.weights import weight_tensors, weights_file
from pipelines.storage import Folder


def write_shard(
    checkpoints: Folder,
    step: int,
    states: dict[Piece, PieceState],
    *,
    rank: int,
    num_ranks: int,
    weights: Mapping[Piece, Tensor] | None = None,
) -> None:
    """Write the optimizer state that this rank owns, and beside it what `complete_shards` must know.
    `weights`: the flat pieces of them that it owns; None = `complete_shards` writes whole ones."""
    file = optimizer_file(rank, num_ranks)
    sha256 = write_file(checkpoints, step, file, piece_tensors(states))
    note: dict[str, Any] = {"sha256": sha256, "pieces": list(states)}
    if weights is not None:
        sha256 = write_file(checkpoints, step, weights_file(rank, num_ranks), weight_tensors(weights))
        note["weights"] = {"sha256": sha256, "pieces": list(weights)}
    checkpoints.write(f"{folder_name(step)}/{_note_of(file)}", json.dumps(note).encode())


def complete_shards(
    checkpoints: Folder, model: nn.Module, state: TrainState, *, num_ranks: int, private: bool = False
) -> None:
    """Write complete.json, and the weights unless the ranks wrote pieces of them, over the shards of all
    ranks, which must have been written. `private`: see Record."""
    sha256, pieces, weights = dict[str, str](), dict[str, list[Piece]](), dict[str, list[Piece]]()
    for rank in range(num_ranks):
        file = optimizer_file(rank, num_ranks)
        note = json.loads(checkpoints.read(f"{folder_name(state.step)}/{_note_of(file)}"))
        sha256[file] = note["sha256"]
        pieces[file] = [Piece(*piece) for piece in note["pieces"]]
        if "weights" in note:
            file, note = weights_file(rank, num_ranks), note["weights"]
            sha256[file] = note["sha256"]
            weights[file] = [Piece(*piece) for piece in note["pieces"]]
    if not weights:
        sha256[MODEL_FILE] = write_file(checkpoints, state.step, MODEL_FILE, model_tensors(model))
    record = Record(
        state=state, sha256=sha256, pieces=pieces, base=find_base(model), weights=weights, private=private
    )
    write_record(checkpoints, record)


def read_pieces(checkpoints: Folder, record: Record, wanted: Iterable[Piece]) -> dict[Piece, PieceState]:
    """The state of every wanted piece; {} for one of a parameter that has none yet (it never got a gradient).

    Reads only the files that hold a part of a wanted piece. Raises DamagedCheckpointError if a file is
    damaged or a piece has gaps, ValueError if each rank has an optimizer of its own (local_sgd).
    """
    if record.private:
        raise ValueError(
            f"checkpoint {checkpoints.path}/{folder_name(record.state.step)} has an optimizer for each rank; "
            "continue with finetune.strategy=local_sgd, or train in a new folder"
        )
    wanted = list(wanted)
    by_name: dict[str, list[Piece]] = {}
    for piece in wanted:
        by_name.setdefault(piece.name, []).append(piece)
    found: dict[str, list[tuple[Piece, PieceState]]] = {}
    for file, pieces in record.pieces.items():
        if any(_overlap(piece, each) for piece in pieces for each in by_name.get(piece.name, [])):
            for piece, state in parse_piece_tensors(read_file(checkpoints, record, file)).items():
                if any(_overlap(piece, each) for each in by_name.get(piece.name, [])):
                    found.setdefault(piece.name, []).append((piece, state))
    return {piece: _assemble(piece, found.get(piece.name, [])) for piece in wanted}


def _assemble(wanted: Piece, parts: list[tuple[Piece, PieceState]]) -> PieceState:
    """The state of `wanted` from parts of the same parameter."""
    overlapping = sorted(
        ((part, state) for part, state in parts if _overlap(part, wanted)), key=lambda pair: pair[0].start
    )
    if not overlapping:
        return {}
    covered = wanted.start
    for part, _ in overlapping:
        covered = max(covered, part.stop) if part.start <= covered else covered
    if covered < wanted.stop:
        raise DamagedCheckpointError(
            f"optimizer state of {wanted.name} ends at element {covered} of [{wanted.start}, {wanted.stop})"
        )
    assembled: PieceState = {}
    for field, first in overlapping[0][1].items():
        if first.dim() == 0:
            assembled[field] = first
            continue
        cut = [
            state[field][
                max(wanted.start, part.start) - part.start : min(wanted.stop, part.stop) - part.start
            ]
            for part, state in overlapping
        ]
        assembled[field] = torch.cat(cut)
    return assembled


def _overlap(one: Piece, other: Piece) -> bool:
    return one.name == other.name and one.start < other.stop and other.start < one.stop


def _note_of(file: str) -> str:
    return file.removesuffix(".safetensors") + ".json"
