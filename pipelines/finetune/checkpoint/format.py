"""The format of a checkpoint, for every strategy: weights by name, optimizer state by parameter name and
range, safetensors only.

A checkpoint is a folder `step-00000200`:

    model.safetensors                    weights by name, whole; tied weights once. With an adapter those of
                                         its base are left out
    model-00000-of-00002.safetensors     instead, from ranks that hold no whole weights: pieces of them
                                         (weights.py)
    optimizer-00000-of-00002.safetensors one file per writing rank (whole.py writes a single one)
    optimizer-00000-of-00002.json        its sha256 and pieces, from which rank 0 makes complete.json
    complete.json                        written last: format, train state, sha256 and pieces by file

A piece is the optimizer state for elements [start, stop) of a flattened parameter. Whole state is one piece
per parameter; a sharded optimizer writes the pieces that a rank owns. A reader takes the pieces that overlap
the ranges it needs, so a checkpoint can be read with another number of ranks or by another strategy. Where
each rank has an optimizer of its own (`Record.private`), file r is that of rank r. With a
running mean of the weights, the model of a checkpoint is the mean, and the state of a piece has the weights
that training goes on from.

What a killed writer left has no complete.json and is ignored. A file that a disk damaged does not match its
sha256, and the checkpoint before it is used. Dropout and data order need no state: both are functions of
(seed, step).
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import safetensors.torch
from torch import Tensor, nn

from pipelines.finetune.models.lora import find_attached, list_frozen, read_state
from pipelines.storage import Folder

FORMAT, PIECES_FORMAT = 3, 4
"""1 and 2 numbered the optimizer state by position, which another model or parameter grouping silently
shifts. 4 has weights in pieces or private optimizers, which versions that know 3 alone would misread.
"""
NUM_KEPT = 2
"""Newest checkpoints that are kept, beside the best one."""
MODEL_FILE = "model.safetensors"
COMPLETE = "complete.json"


class DamagedCheckpointError(ValueError):
    """A file of the checkpoint is missing or is not what was written: an older checkpoint may still be
    good.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainState:
    """Where a training stands."""

    step: int = 0
    """Steps done."""
    best_step: int = -1
    """Step of the best evaluation so far; -1 = none yet."""
    best_value: float = 0.0
    """Its metric; without meaning while best_step is -1."""
    last_gain_value: float | None = None
    """Metric of the last evaluation that gained enough not to stop; None = none yet."""
    best_tie: float | None = None
    """Of the best evaluation, the metric that decides between equal values; None = nothing does."""
    last_gain_tie: float | None = None
    """The same of the last evaluation that gained enough."""
    num_without_gain: int = 0
    """Evaluations since then."""
    loss_scale: float | None = None
    """Factor of the next loss in float16, see loss_scale.py; None = the first one, or another precision."""
    num_since_scale_change: int = 0
    num_skipped: int = 0
    """Steps that changed no weights because of it."""
    num_skipped_in_row: int = 0
    sent_bytes: int = 0
    """Of local SGD: what a rank has sent so far to keep the weights together."""
    synchronous_bytes: int = 0
    """What data parallel would have sent."""


class Piece(NamedTuple):
    """Elements [start, stop) of a flattened parameter."""

    name: str
    start: int
    stop: int


PieceState = dict[str, Tensor]
"""Optimizer state of a piece by field: (stop - start,) tensors, and scalars of shape () that hold for the
whole parameter. Optimizers that do not shard may have fewer elements: their pieces are whole parameters.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What complete.json says."""

    state: TrainState
    sha256: dict[str, str]
    """By file."""
    pieces: dict[str, list[Piece]]
    """By optimizer file."""
    base: str | None = None
    """sha256 of the base weights that an adapter belongs to; None = the weights are whole."""
    weights: dict[str, list[Piece]] = field(default_factory=dict)
    """By file, where the weights are in pieces; empty = they are in MODEL_FILE."""
    private: bool = False
    """Whether optimizer file r is the state of rank r alone, of whole parameters."""

    @property
    def format(self) -> int:
        """The oldest format that can say it."""
        return PIECES_FORMAT if self.weights or self.private else FORMAT


def folder_name(step: int) -> str:
    return f"step-{step:08d}"


def list_steps(checkpoints: Folder) -> list[int]:
    """Steps with a folder, complete or not, in order."""
    return sorted(int(name.removeprefix("step-")) for name in checkpoints.names() if name.startswith("step-"))


def complete_steps(checkpoints: Folder) -> list[int]:
    """Steps of complete checkpoints, newest first."""
    return [
        step
        for step in reversed(list_steps(checkpoints))
        if checkpoints.exists(f"{folder_name(step)}/{COMPLETE}")
    ]


def read_record(checkpoints: Folder, step: int) -> Record:
    """Raises ValueError if an older version of this project wrote the checkpoint, DamagedCheckpointError if
    it is damaged.
    """
    place = f"{folder_name(step)}/{COMPLETE}"
    try:
        record = json.loads(checkpoints.read(place))
    except (ValueError, FileNotFoundError) as error:
        raise DamagedCheckpointError(f"{checkpoints.path}/{place} cannot be read: {error}") from error
    if record.get("format") not in (FORMAT, PIECES_FORMAT):
        raise ValueError(
            f"{checkpoints.path}/{folder_name(step)} has checkpoint format {record.get('format', 'before 3')}"
            f", this version reads {FORMAT} and {PIECES_FORMAT}; delete {checkpoints.path} to train from "
            "the start, or finish the training with the version that started it"
        )
    return Record(
        state=TrainState(**record["state"]),
        sha256=record["sha256"],
        pieces=_read_pieces(record["pieces"]),
        base=record.get("base"),
        weights=_read_pieces(record.get("weights", {})),
        private=record.get("private", False),
    )


def _read_pieces(by_file: dict[str, list[list[Any]]]) -> dict[str, list[Piece]]:
    return {file: [Piece(*piece) for piece in pieces] for file, pieces in by_file.items()}


def write_record(checkpoints: Folder, record: Record) -> None:
    """Make the checkpoint complete, then delete all but the newest ones and the best."""
    step = record.state.step
    content = json.dumps({"format": record.format, **asdict(record)}).encode()
    checkpoints.write(f"{folder_name(step)}/{COMPLETE}", content)
    steps = [each for each in list_steps(checkpoints) if each <= step]
    for each in set(steps[:-NUM_KEPT]) - {record.state.best_step}:
        checkpoints.delete(folder_name(each))


def write_file(checkpoints: Folder, step: int, file: str, tensors: dict[str, Tensor]) -> str:
    """Write one safetensors file; its sha256."""
    content = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    )
    checkpoints.write(f"{folder_name(step)}/{file}", content)
    return hashlib.sha256(content).hexdigest()


def read_file(checkpoints: Folder, record: Record, file: str) -> dict[str, Tensor]:
    """The tensors of one file. Raises DamagedCheckpointError if it is missing or does not match its
    sha256.
    """
    place = f"{folder_name(record.state.step)}/{file}"
    try:
        content = checkpoints.read(place)
    except FileNotFoundError as error:
        raise DamagedCheckpointError(f"{checkpoints.path}/{place} is missing") from error
    if hashlib.sha256(content).hexdigest() != record.sha256[file]:
        raise DamagedCheckpointError(f"{checkpoints.path}/{place} does not match its sha256")
    return safetensors.torch.load(content)


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state that a training changes, without the second name of tied weights, which safetensors refuses
    to store twice."""
    seen: set[int] = set()
    tensors = {}
    for name, tensor in read_state(model).items():
        if tensor.data_ptr() not in seen or tensor.numel() == 0:
            tensors[name] = tensor
        seen.add(tensor.data_ptr())
    return tensors


def load_model_tensors(model: nn.Module, tensors: dict[str, Tensor], origin: str) -> None:
    """Put weights into `model`. Raises ValueError if they belong to a model of other names."""
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    still_missing = set(missing) - _names_sharing_storage(model, set(tensors)) - list_frozen(model)
    if still_missing or unexpected:
        raise ValueError(
            f"checkpoint {origin} is of another model: missing {sorted(still_missing)[:3]}, "
            f"unexpected {unexpected[:3]}; train in a new folder"
        )


def find_base(model: nn.Module) -> str | None:
    """What `Record.base` says of `model`."""
    attached = find_attached(model)
    return None if attached is None else attached.base.sha256


def require_base(model: nn.Module, record: Record, origin: str) -> None:
    """Raise ValueError unless the checkpoint is of the base that `model` has."""
    attached = find_attached(model)
    if attached is not None and record.base is not None:
        replace(attached.base, sha256=record.base).require(attached.base.sha256, f"checkpoint {origin}")


def _names_sharing_storage(model: nn.Module, given: set[str]) -> set[str]:
    state = model.state_dict()
    pointers = {state[name].data_ptr() for name in given if name in state}
    return {name for name, tensor in state.items() if tensor.data_ptr() in pointers}


def optimizer_file(rank: int, num_files: int) -> str:
    return f"optimizer-{rank:05d}-of-{num_files:05d}.safetensors"


def piece_tensors(states: dict[Piece, PieceState]) -> dict[str, Any]:
    """Optimizer state under the names of an optimizer file: "PARAMETER@START:STOP/FIELD"."""
    return {
        f"{piece.name}@{piece.start}:{piece.stop}/{field}": tensor
        for piece, state in states.items()
        for field, tensor in state.items()
    }


def parse_piece_tensors(tensors: dict[str, Tensor]) -> dict[Piece, PieceState]:
    """The reverse of `piece_tensors`."""
    states: dict[Piece, PieceState] = {}
    for key, tensor in tensors.items():
        place, _, field = key.rpartition("/")
        name, _, span = place.rpartition("@")
        start, _, stop = span.partition(":")
        states.setdefault(Piece(name, int(start), int(stop)), {})[field] = tensor
    return states
