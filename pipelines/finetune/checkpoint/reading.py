"""Reading a checkpoint: whole files, weights into a model, and the pieces of optimizer state that a rank
needs, no matter which rank wrote them. Tensors go to their places chunk by chunk, so nothing is held twice.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from pipelines.finetune.checkpoint.format import (
    MODEL_FILE,
    DamagedCheckpointError,
    Piece,
    PieceState,
    Record,
    folder_name,
    parse_name,
)
from pipelines.finetune.checkpoint.part import WEIGHT, model_tensors
from pipelines.finetune.checkpoint.tensor_file import Stored, Target, read_tensors
from pipelines.finetune.models.lora import read_state
from pipelines.storage import Folder

MakeState = Callable[[Piece], PieceState]


def read_file(checkpoints: Folder, record: Record, file: str) -> dict[str, Tensor]:
    """The tensors of one file. Raises DamagedCheckpointError if it is missing or is not what was written."""
    tensors: dict[str, Tensor] = {}

    def place(stored: Stored) -> list[Target]:
        tensors[stored.name] = torch.empty(stored.shape, dtype=stored.dtype)
        return [Target(0, tensors[stored.name].view(-1))]

    _read(checkpoints, record, file, place)
    return tensors


def load_weights(checkpoints: Folder, record: Record, model: nn.Module) -> None:
    """Put the weights into `model`. Raises DamagedCheckpointError, ValueError if they belong to a model of
    other names or shapes. After either, `model` holds something else.
    """
    state, given, unfit = read_state(model), set[str](), list[str]()

    def place(stored: Stored) -> list[Target]:
        given.add(stored.name)
        if stored.name not in state or state[stored.name].shape != stored.shape:
            unfit.append(f"{stored.name} {list(stored.shape)}")
            return []
        return [Target(0, _flatten(stored.name, state[stored.name]))]

    if not record.files.weights:
        _read(checkpoints, record, MODEL_FILE, place)
    else:
        shapes = record.files.shapes  # pieces are flat
        unfit += [n for n, each in state.items() if n in shapes and list(each.shape) != shapes[n]]
        _require_same_model(checkpoints, record, [], unfit)
        tensors = model_tensors(model)
        places = {Piece(name, 0, each.numel()): each for name, each in tensors.items()}
        given = {piece.name for piece in _fill_pieces(checkpoints, record, places)}
        kept = {p.name for pieces in record.files.weights.values() for p in pieces if p.start < p.stop}
        unfit += sorted(kept - given)
    sharing = {state[name].data_ptr() for name in given if name in state}  # a tied one has two names
    missing = [
        name
        for name, each in state.items()
        if name not in given and each.data_ptr() not in sharing and each.numel()
    ]
    _require_same_model(checkpoints, record, missing, unfit)


def load_weight_pieces(checkpoints: Folder, record: Record, places: Mapping[Piece, Tensor]) -> None:
    """Put pieces of the weights into `places`, flat views of (stop - start,) elements, for a rank that holds
    no whole weights. Raises as `load_weights`, but does not look for weights that `places` does not name.
    """
    given, unfit = set[Piece](), list[str]()
    by_name: dict[str, list[Piece]] = {}
    for piece in places:
        by_name.setdefault(piece.name, []).append(piece)

    def place(stored: Stored) -> Iterator[Target]:
        for piece in by_name.get(stored.name, ()):
            if stored.num_elements < piece.stop:
                unfit.append(f"{stored.name} {list(stored.shape)}")
            else:
                given.add(piece)
                yield Target(piece.start, _flatten(stored.name, places[piece]))

    if record.files.weights:
        given = _fill_pieces(checkpoints, record, places)
    else:
        _read(checkpoints, record, MODEL_FILE, place)
    _require_same_model(checkpoints, record, sorted({each.name for each in {*places} - given}), unfit)


def _fill_pieces(checkpoints: Folder, record: Record, places: Mapping[Piece, Tensor]) -> set[Piece]:
    """Put weights that are stored in pieces into `places`; those that the checkpoint has."""
    found = read_pieces(
        checkpoints, record, places, files=record.files.weights, make=lambda piece: {WEIGHT: places[piece]}
    )
    return {piece for piece, fields in found.items() if fields}


def _require_same_model(checkpoints: Folder, record: Record, missing: list[str], unfit: list[str]) -> None:
    if missing or unfit:
        raise ValueError(
            f"checkpoint {checkpoints.path}/{folder_name(record.state.step)} is of another model: missing "
            f"{missing[:3]}, unexpected {unfit[:3]}; train in a new folder"
        )


def read_pieces(
    checkpoints: Folder,
    record: Record,
    wanted: Iterable[Piece],
    *,
    files: dict[str, list[Piece]] | None = None,
    make: MakeState | None = None,
    rank: int | None = None,
) -> dict[Piece, PieceState]:
    """The state of every wanted piece; {} for one of a parameter that has none yet (it never got a gradient).

    It reads the files that hold a part of a wanted piece and belong to all ranks or to `rank`, among `files`;
    None = those of the optimizer. `make`: tensors of any shape to be filled, by field; the result has those
    that were. None = new ones on the CPU, flat where a field has a number for each element.
    Raises DamagedCheckpointError if a file is damaged or a piece has gaps, ValueError if `make` lacks a
    field, or without `rank` if each rank has state of its own.
    """
    files = record.files.pieces if files is None else files
    if rank is None and files.keys() & record.files.owners.keys():
        raise ValueError(
            f"checkpoint {checkpoints.path}/{folder_name(record.state.step)} has an optimizer for each rank; "
            "continue with finetune.strategy=local_sgd, or train in a new folder"
        )
    by_name: dict[str, list[_Filling]] = {}
    for piece in wanted:
        by_name.setdefault(piece.name, []).append(_Filling(piece, make))

    def place(stored: Stored) -> Iterator[Target]:
        try:
            part, field = parse_name(stored.name)
        except ValueError as error:  # the sha256 of the file is known at its end only
            place = folder_name(record.state.step)
            raise DamagedCheckpointError(f"{place} has a tensor {stored.name!r}: {error}") from error
        for filling in by_name.get(part.name, ()):
            yield from filling.place(part, field, stored)

    for file, pieces in files.items():
        is_ours = record.files.owners.get(file, rank) == rank
        if is_ours and any(
            _overlap(piece, each.piece) for piece in pieces for each in by_name.get(piece.name, ())
        ):
            _read(checkpoints, record, file, place)
    return {each.piece: each.finish() for fillings in by_name.values() for each in fillings}


class _Filling:
    """The state of a wanted piece while parts of it come."""

    def __init__(self, piece: Piece, make: MakeState | None) -> None:
        self.piece, self._make = piece, make
        self._made: PieceState | None = None
        self._state: PieceState = {}
        self._parts, self._unknown = set[Piece](), set[str]()

    def place(self, part: Piece, field: str, stored: Stored) -> Iterator[Target]:
        """Where the field of `part` goes."""
        if not _overlap(part, self.piece):
            return
        is_cut = stored.num_elements == part.stop - part.start and len(stored.shape) > 0
        if not is_cut and len(stored.shape) > 0 and part != self.piece:
            return  # state of a whole parameter (a row of Adafactor) is in no part of it
        tensor = self._find(field, stored, is_cut=is_cut)
        self._parts.add(part)
        if tensor is None:
            self._unknown.add(field)
        elif is_cut:
            start, stop = max(part.start, self.piece.start), min(part.stop, self.piece.stop)
            yield Target(start - part.start, tensor[start - self.piece.start : stop - self.piece.start])
        else:
            yield Target(0, tensor)

    def _find(self, field: str, stored: Stored, *, is_cut: bool) -> Tensor | None:
        """The tensor to be filled, flat."""
        if self._make is not None:
            self._made = self._make(self.piece) if self._made is None else self._made
            if field not in self._made:
                return None
            self._state[field] = self._made[field]
        elif field not in self._state:
            shape = (self.piece.stop - self.piece.start,) if is_cut else stored.shape
            self._state[field] = torch.empty(shape, dtype=stored.dtype)
        return _flatten(f"{field} of {self.piece.name}", self._state[field])

    def finish(self) -> PieceState:
        covered = self.piece.start
        for part in sorted(self._parts, key=lambda each: each.start):
            covered = max(covered, part.stop) if part.start <= covered else covered
        if self._parts and covered < self.piece.stop:
            raise DamagedCheckpointError(
                f"state of {self.piece.name} ends at element {covered} of "
                f"[{self.piece.start}, {self.piece.stop})"
            )
        if self._unknown:
            raise ValueError(
                f"the checkpoint has {', '.join(sorted(self._unknown))} of {self.piece.name}, which this "
                "training does not keep: it is of another optimizer; train in a new folder"
            )
        return self._state


def _overlap(one: Piece, other: Piece) -> bool:
    return one.name == other.name and one.start < other.stop and other.start < one.stop


def _flatten(name: str, tensor: Tensor) -> Tensor:
    """A flat view."""
    assert tensor.is_contiguous(), f"{name} is not contiguous: prepare_model makes weights so"
    return tensor.detach().view(-1)


def _read(
    checkpoints: Folder, record: Record, file: str, place: Callable[[Stored], Iterable[Target]]
) -> None:
    if file not in record.files.sha256:
        raise DamagedCheckpointError(f"the record of step {record.state.step} has no sha256 of {file}")
    read_tensors(
        checkpoints,
        f"{folder_name(record.state.step)}/{file}",
        place,
        sha256=record.files.sha256[file],
        num_bytes=record.files.num_bytes.get(file),
    )
