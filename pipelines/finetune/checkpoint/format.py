"""The format of a checkpoint, for every strategy: weights by name, optimizer state by parameter name and
range, safetensors only.

A checkpoint is a folder `step-00000200`:

    model.safetensors                    weights by name, whole; tied weights once. With an adapter those of
                                         its base are left out
    model-00000-of-00002.safetensors     or instead of it: the pieces of the weights that one rank writes
    optimizer-00000-of-00002.safetensors optimizer state that one rank writes
    part-00001-of-00002.1.json           what a rank wrote in launch 1, from which rank 0 makes complete.json
    complete.json                        written last: format, train state; sha256, bytes and pieces by file;
                                         its own sha256

A piece is elements [start, stop) of a flattened parameter, and its state that of the optimizer. Whole state
is one piece per parameter; a sharded strategy writes the pieces that a rank owns. A reader takes the pieces
that overlap the ranges it needs, so a checkpoint can be read with another number of ranks or by another
strategy. State of a rank that is no piece of a whole (each rank has its own) has that rank as its owner. With
a running mean of the weights, the model of a checkpoint is the mean, and the state of a piece has the weights
that training goes on from.

What a killed writer left has no complete.json and is ignored. A file that a disk damaged does not match its
sha256, and the checkpoint before it is used. Dropout and data order need no state: both are functions of
(seed, step).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

from torch import Tensor, nn

from pipelines.finetune.models.lora import find_attached
from pipelines.storage import Folder

FORMAT = 4
"""1 and 2 numbered the optimizer state by position, which another model or parameter grouping silently
shifts. 3 had whole weights only, and no sizes.
"""
READABLE = (3, 4)
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
class Files:
    """What is known of the files of a checkpoint, or of those that one rank wrote; all by file."""

    sha256: dict[str, str]
    num_bytes: dict[str, int] = field(default_factory=dict)
    """Empty in format 3."""
    weights: dict[str, list[Piece]] = field(default_factory=dict)
    """Of files with pieces of the weights; none = they are whole, in MODEL_FILE."""
    pieces: dict[str, list[Piece]] = field(default_factory=dict)
    """Of optimizer files."""
    shapes: dict[str, list[int]] = field(default_factory=dict)
    """Of weights that are in pieces, by name; none in early files of format 4."""
    owners: dict[str, int] = field(default_factory=dict)
    """The only rank that may read the file; none = its pieces belong to all."""

    @staticmethod
    def parse(content: Mapping[str, Any]) -> "Files":
        """From what `asdict` and JSON made of it."""
        weights, pieces = (
            {file: [Piece(*each) for each in listed] for file, listed in content.get(kind, {}).items()}
            for kind in ("weights", "pieces")
        )
        return Files(
            sha256=content["sha256"],
            num_bytes=content.get("num_bytes", {}),
            weights=weights,
            pieces=pieces,
            shapes=content.get("shapes", {}),
            owners=content.get("owners", {}),
        )

    def join(self, other: "Files") -> "Files":
        """Both."""
        mine, added = asdict(self), asdict(other)
        return Files.parse({kind: {**mine[kind], **added[kind]} for kind in mine})


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What complete.json says."""

    state: TrainState
    files: Files
    base: str | None = None
    """sha256 of the base weights that an adapter belongs to; None = the weights are whole."""


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
        if not isinstance(record, dict):
            raise ValueError("it is no object")
    except (ValueError, FileNotFoundError) as error:
        raise DamagedCheckpointError(f"{checkpoints.path}/{place} cannot be read: {error}") from error
    if record.get("format") not in READABLE:
        raise ValueError(
            f"{checkpoints.path}/{folder_name(step)} has checkpoint format {record.get('format', 'before 3')}"
            f", this version reads {READABLE[0]} and {READABLE[1]}; delete {checkpoints.path} to train from "
            "the start, or finish the training with the version that started it"
        )
    sha256 = record.pop("own_sha256", None)  # none in format 3
    if record["format"] != 3 and sha256 != _digest(record):
        raise DamagedCheckpointError(f"{checkpoints.path}/{place} does not match its sha256")
    files = Files.parse(record if record["format"] == 3 else record["files"])
    return Record(state=TrainState(**record["state"]), files=files, base=record.get("base"))


def write_record(checkpoints: Folder, record: Record) -> None:
    """Make the checkpoint complete, then delete all but the newest complete ones and the best."""
    step = record.state.step
    content = {"format": FORMAT, **asdict(record)}
    content["own_sha256"] = _digest(content)
    checkpoints.write(f"{folder_name(step)}/{COMPLETE}", json.dumps(content).encode())
    kept = [each for each in complete_steps(checkpoints) if each <= step][:NUM_KEPT]
    for each in list_steps(checkpoints):
        if each <= step and each not in kept and each != record.state.best_step:
            checkpoints.delete(folder_name(each))


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def find_base(model: nn.Module) -> str | None:
    """What `Record.base` says of `model`."""
    attached = find_attached(model)
    return None if attached is None else attached.base.sha256


def require_base(model: nn.Module, record: Record, origin: str) -> None:
    """Raise ValueError unless the checkpoint is of the base that `model` has."""
    attached = find_attached(model)
    if attached is not None and record.base is not None:
        replace(attached.base, sha256=record.base).require(attached.base.sha256, f"checkpoint {origin}")


def weights_file(number: int, num_parts: int) -> str:
    return f"model-{number:05d}-of-{num_parts:05d}.safetensors"


def optimizer_file(number: int, num_parts: int) -> str:
    return f"optimizer-{number:05d}-of-{num_parts:05d}.safetensors"


def name_tensors(states: Mapping[Piece, PieceState]) -> dict[str, Tensor]:
    """State of pieces under the names that it has in a file: "PARAMETER@START:STOP/FIELD"."""
    return {
        f"{piece.name}@{piece.start}:{piece.stop}/{field}": tensor
        for piece, state in states.items()
        for field, tensor in state.items()
    }


def parse_name(name: str) -> tuple[Piece, str]:
    """Piece and field of a tensor in a file. Raises ValueError if it is no such name."""
    place, _, field = name.rpartition("/")
    parameter, _, span = place.rpartition("@")
    start, _, stop = span.partition(":")
    return Piece(parameter, int(start), int(stop)), field
