"""Files in the format of safetensors, written and read tensor by tensor, on any storage.

The library's own functions build a whole file in memory, or need a local one. The format is simple: the
length of a header (8 bytes, little-endian), the header in JSON (type, shape and place of each tensor), and
the bytes of the tensors end to end. Here a file is a sequence of chunks of at most CHUNK_BYTES, which are
hashed on their way, so neither writing nor reading needs memory in proportion to the file.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from pipelines.finetune.checkpoint.format import DamagedCheckpointError
from pipelines.storage import Folder

CHUNK_BYTES = 16 * 2**20
MAX_HEADER_BYTES = 100 * 10**6
"""The limit of safetensors."""
TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Types by their names in a header."""
_NAMES = {dtype: name for name, dtype in TYPES.items()}


class FileImage(Protocol):
    """The bytes of a file, in chunks. It can be iterated again, from the start."""

    num_bytes: int

    def __iter__(self) -> Iterator[memoryview]: ...


class TensorFile:
    """The image of a file that shows the tensors as they are while it is iterated; nothing is copied but what
    is on a GPU or not contiguous, a tensor or a chunk at a time."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        """Raises ValueError for a type that the format is not used with here."""
        # Larger elements first: so each tensor is aligned to its elements, as safetensors does.
        order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
        self.tensors = [tensors[name].detach() for name in order]
        header: dict[str, Any] = {}
        stop = 0
        for name, tensor in zip(order, self.tensors, strict=True):
            if tensor.dtype not in _NAMES:
                raise ValueError(f"{name} has type {tensor.dtype}, which no checkpoint can hold")
            start, stop = stop, stop + tensor.nbytes
            shape = list(tensor.shape)
            header[name] = {"dtype": _NAMES[tensor.dtype], "shape": shape, "data_offsets": [start, stop]}
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        self.header = len(text).to_bytes(8, "little") + text
        self.num_bytes = len(self.header) + stop

    def __iter__(self) -> Iterator[memoryview]:
        yield memoryview(self.header)
        for tensor in self.tensors:
            for chunk in flat_bytes(tensor).split(CHUNK_BYTES):
                yield chunk.cpu().numpy().data


def flat_bytes(tensor: Tensor) -> Tensor:
    """(num_bytes,) uint8: a view where the tensor is contiguous."""
    return tensor.contiguous().view(-1).view(torch.uint8)


class Written(NamedTuple):
    sha256: str
    num_bytes: int


def write_image(folder: Folder, name: str, image: FileImage) -> Written:
    """Write the file completely or not at all."""
    hashed = _Hashed(image)
    folder.write_chunks(name, hashed, num_bytes=image.num_bytes)
    return Written(hashed.sha256, image.num_bytes)


class _Hashed:
    """The same chunks; afterwards `sha256` is that of all of them."""

    def __init__(self, image: FileImage) -> None:
        self._image, self.sha256 = image, ""

    def __iter__(self) -> Iterator[memoryview]:
        digest = hashlib.sha256()
        for chunk in self._image:
            digest.update(chunk)
            yield chunk
        self.sha256 = digest.hexdigest()


class Stored(NamedTuple):
    """A tensor in a file."""

    name: str
    dtype: torch.dtype
    shape: torch.Size

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)


class Target(NamedTuple):
    """Where elements [start, start + len(tensor)) of a stored tensor go."""

    start: int
    tensor: Tensor
    """(num_elements,) of any type, on any device."""


def read_tensors(
    folder: Folder,
    name: str,
    place: Callable[[Stored], Iterable[Target]],
    *,
    sha256: str,
    num_bytes: int | None = None,
) -> None:
    """Read the file from its start to its end, and put each tensor where `place` says, perhaps nowhere.

    Raises DamagedCheckpointError if the file is missing or not the one with this sha256 and size (None =
    any). Damage is known at the end only: then the targets hold something wrong.
    """
    shown = f"{folder.path}/{name}"
    try:
        with folder.open(name) as stream:
            size = stream.size()
            if num_bytes is not None and size != num_bytes:
                raise DamagedCheckpointError(f"{shown} has {size:,} bytes, {num_bytes:,} were written")
            reader = _HashingReader(stream, shown)
            for stored, length in _read_header(reader, size, shown):
                _fill(reader, length, stored, list(place(stored)))
            if reader.digest.hexdigest() != sha256:
                raise DamagedCheckpointError(f"{shown} does not match its sha256")
    except FileNotFoundError as error:
        raise DamagedCheckpointError(f"{shown} is missing") from error


class _HashingReader:
    """Reads on and on into one buffer, and hashes what it has read."""

    def __init__(self, stream: Any, shown: str) -> None:
        self._stream, self._shown, self.digest = stream, shown, hashlib.sha256()
        self._buffer = bytearray()

    def read(self, num_bytes: int) -> memoryview:
        """The next bytes, all of them; they are valid until the next call."""
        if len(self._buffer) < num_bytes:
            self._buffer = bytearray(num_bytes)
        view, done = memoryview(self._buffer)[:num_bytes], 0
        while done < num_bytes:
            found = self._stream.readinto(view[done:])
            if not found:
                raise DamagedCheckpointError(f"{self._shown} ends too early")
            done += found
        self.digest.update(view)
        return view


def _read_header(reader: _HashingReader, size: int, shown: str) -> list[tuple[Stored, int]]:
    """All tensors in the order of the file, and their bytes, which together fill it."""
    try:
        length = int.from_bytes(reader.read(8), "little")
        if length > min(size - 8, MAX_HEADER_BYTES):
            raise ValueError(f"its header has {length:,} bytes")
        header = json.loads(bytes(reader.read(length)))
        header.pop("__metadata__", None)
        found, stop = [], 0
        for name, entry in sorted(header.items(), key=lambda each: each[1]["data_offsets"]):
            start, end = entry["data_offsets"]
            stored = Stored(name, TYPES[entry["dtype"]], torch.Size(entry["shape"]))
            if start != stop or end - start != stored.num_elements * stored.dtype.itemsize:
                raise ValueError(f"tensor {name} has bytes [{start}, {end})")
            found.append((stored, end - start))
            stop = end
        if 8 + length + stop != size:
            raise ValueError(f"its tensors end at byte {8 + length + stop:,} of {size:,}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpointError(f"{shown} is no safetensors file: {error}") from error
    return found


def _fill(reader: _HashingReader, num_bytes: int, stored: Stored, targets: list[Target]) -> None:
    width = stored.dtype.itemsize
    for start in range(0, num_bytes, CHUNK_BYTES):
        chunk = reader.read(min(CHUNK_BYTES, num_bytes - start))
        values, first = torch.frombuffer(chunk, dtype=stored.dtype), start // width
        for target in targets:
            begin = max(first, target.start)
            end = min(first + len(values), target.start + len(target.tensor))
            if begin < end:
                place = target.tensor[begin - target.start : end - target.start]
                place.copy_(values[begin - first : end - first])
