"""What one rank writes of a checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from pipelines.finetune.checkpoint.format import (
    MODEL_FILE,
    Files,
    Piece,
    PieceState,
    find_base,
    name_tensors,
    optimizer_file,
    weights_file,
)
from pipelines.finetune.checkpoint.tensor_file import TensorFile, Written
from pipelines.finetune.models.lora import read_state

WEIGHT = "weight"
"""Field of a piece of the weights in its file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Tensors of one rank, which may change as soon as the writer has returned. All parts of a checkpoint say
    the same `num_parts`, and number 0 is that of rank 0."""

    weights: Mapping[str, Tensor] | None = None
    """All weights, whole: in one part only; None = another part has them, or each part some pieces."""
    weight_pieces: Mapping[Piece, Tensor] | None = None
    """(stop - start,) each; None = the weights are whole."""
    shapes: Mapping[str, list[int]] = field(default_factory=dict)
    """Of the weights that are in pieces."""
    states: Mapping[Piece, PieceState] = field(default_factory=dict)
    """Of the optimizer."""
    is_private: bool = False
    """Whether `states` belongs to this rank alone: other ranks have state of the same pieces, and each reads
    its own."""
    base: str | None = None
    """See Record."""
    number: int = 0
    num_parts: int = 1

    def make_files(self) -> dict[str, TensorFile]:
        """By name."""
        files = {} if self.weights is None else {MODEL_FILE: TensorFile(self.weights)}
        if self.weight_pieces is not None:
            fields = {piece: {WEIGHT: tensor} for piece, tensor in self.weight_pieces.items()}
            files[weights_file(self.number, self.num_parts)] = TensorFile(name_tensors(fields))
        files[optimizer_file(self.number, self.num_parts)] = TensorFile(name_tensors(self.states))
        return files

    def list_pieces(self) -> dict[str, dict[str, list[Piece]]]:
        """`weights` and `pieces` of Files, for the files of this part."""
        weights = self.weight_pieces
        return {
            "weights": {} if weights is None else {weights_file(self.number, self.num_parts): list(weights)},
            "pieces": {optimizer_file(self.number, self.num_parts): list(self.states)},
        }

    def describe(self, written: Mapping[str, Written]) -> Files:
        """What a record says of the files once they are written."""
        file = optimizer_file(self.number, self.num_parts)
        return Files(
            sha256={name: each.sha256 for name, each in written.items()},
            num_bytes={name: each.num_bytes for name, each in written.items()},
            shapes=dict(self.shapes),
            owners={file: self.number} if self.is_private else {},
            **self.list_pieces(),
        )


def whole_part(model: nn.Module, states: Mapping[Piece, PieceState]) -> Part:
    """The only part of a checkpoint, of a rank that holds everything."""
    return Part(weights=model_tensors(model), states=states, base=find_base(model))


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
