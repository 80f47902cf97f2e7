"""Optimizer state of which each rank has its own, read by another number of ranks."""

from collections.abc import Iterable

from pipelines.finetune.checkpoint.format import Piece, PieceState, Record
from pipelines.finetune.checkpoint.reading import read_pieces
from pipelines.storage import Folder

OWN = "own_weight"
"""Field with the weights of one rank, where the model of the checkpoint is the mean of all ranks."""
ANCHOR, MOMENTUM = "common_weight", "outer_momentum"
"""Fields of rank 0's state that are of all ranks: the weights of their last synchronisation, and the momentum
of the outer steps."""


def read_private(
    checkpoints: Folder, record: Record, wanted: Iterable[Piece], rank: int, num_ranks: int
) -> dict[Piece, PieceState]:
    """What `rank` goes on with: its own state if as many ranks wrote it, else the mean of theirs, without
    OWN. A checkpoint of another strategy has one state for all.

    The states of ranks are read one after the other, so that a rank holds the mean and one of them. Raises
    DamagedCheckpointError for a damaged file.
    """
    owners = sorted(set(record.files.owners.values()))
    if len(owners) in (0, num_ranks):
        return read_pieces(checkpoints, record, wanted, rank=rank)
    wanted = list(wanted)
    total: dict[Piece, PieceState] = {piece: {} for piece in wanted}
    counts = dict.fromkeys(wanted, 0)
    for owner in owners:
        for piece, state in read_pieces(checkpoints, record, wanted, rank=owner).items():
            own = {field: each for field, each in state.items() if field not in (OWN, ANCHOR, MOMENTUM)}
            counts[piece] += bool(own)
            for field, each in own.items():
                total[piece][field] = total[piece][field] + each if field in total[piece] else each
            if rank == 0:  # who sends them to the others
                total[piece] |= {field: state[field] for field in (ANCHOR, MOMENTUM) if field in state}
    for piece, state in total.items():
        for field in state.keys() - {ANCHOR, MOMENTUM}:
            state[field].div_(counts[piece])
    return total
