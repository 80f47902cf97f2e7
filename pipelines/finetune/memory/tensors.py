"""Tensors that have shapes and no values, and an account of the memory that they would take.

While `ShapesOnly` is active, every tensor that an operation makes is entered with the bytes of its storage,
and leaves the account when torch frees it: parameters, activations that backward needs, temporary results,
whatever library makes them. Real numbers are not computed: torch's FakeTensorMode gives the shapes. Whole
numbers and truth values are, because code looks at them: token ids, positions, masks, flags. So the own code
of a training runs through forward, backward and update, in seconds and without the memory, for any model.

Not seen: memory that a kernel takes and gives back inside one operation, what libraries keep for themselves,
and what an allocator holds back. Cost: about 0.1 ms an operation.
"""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from pipelines.finetune.memory.heap import Heap

MAX_COMPUTED = 2**24
"""Elements of the largest tensor of whole numbers that is computed."""
MAX_COMPUTED_REALS = 2**12
"""The same for real numbers that follow from whole ones, such as the frequencies of rotary positions."""
aten = torch.ops.aten
INDEXED = (
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
)
"""Operations whose second argument may be masks, which decide the shape of the result."""


class ShapesOnly(TorchDispatchMode):
    """See the module. A real number that code asks for (`item`) is 1, and two tensors are equal."""

    def __init__(self) -> None:
        super().__init__()
        self.heap = Heap()
        self.peak_resident_bytes = 0
        self._shapes = FakeTensorMode(allow_non_fake_inputs=True)
        self._seen: dict[int, Any] = {}
        self.num_bytes = 0
        """Of all tensors that live now."""
        self.peak_bytes = 0
        """The most there has been since the start or `forget_peak`."""

    def forget_peak(self) -> None:
        self.peak_bytes = self.num_bytes

    def hold(self, num_bytes: int) -> None:
        """Memory beside tensors, taken and given back."""
        block = self.heap.take(num_bytes)
        self.peak_resident_bytes = max(self.peak_resident_bytes, self.heap.resident_bytes)
        self.heap.give(block)

    def keep(self, num_bytes: int) -> None:
        """Memory beside tensors, taken for good."""
        self.heap.take(num_bytes)
        self.peak_resident_bytes = max(self.peak_resident_bytes, self.heap.resident_bytes)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = self._run(func, args, kwargs or {})
        for each in tree_leaves(result):
            if isinstance(each, Tensor):
                self._enter(each)
        return result

    def _enter(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, num_bytes = storage._cdata, storage.nbytes()
        if key in self._seen or not num_bytes:
            return

        block = self.heap.take(num_bytes)

        def leave(_: Any) -> None:
            del self._seen[key]
            self.heap.give(block)
            self.num_bytes -= num_bytes

        self._seen[key] = weakref.ref(storage, leave)
        self.num_bytes += num_bytes
        self.peak_bytes = max(self.peak_bytes, self.num_bytes)
        self.peak_resident_bytes = max(self.peak_resident_bytes, self.heap.resident_bytes)

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        has_shapes_only = any(isinstance(each, FakeTensor) for each in given)
        if has_shapes_only and func is aten._local_scalar_dense.default:
            return 1 if not given[0].dtype.is_floating_point else 1.0
        if has_shapes_only and func is aten.equal.default:
            return given[0].shape == given[1].shape
        if not has_shapes_only and (func._schema.is_mutable or not self._returns_tensors(func)):
            return func(*args, **kwargs)
        if func in INDEXED:
            args = (args[0], _number_marks(args[1]), *args[2:])
        try:
            with self._shapes:
                found = func(*self._strip(args), **self._strip(kwargs))
        except (DataDependentOutputException, DynamicOutputShapeException):
            if has_shapes_only:
                raise
            return func(*args, **kwargs)
        if not has_shapes_only and _is_computed(found, follows=bool(given)):
            return func(*args, **kwargs)
        if func._schema.is_mutable:  # a result that is the argument itself
            origin = {id(self._shape_of(each)): each for each in given if not isinstance(each, FakeTensor)}
            found = tree_map(lambda each: origin.get(id(each), each), found)
        return found

    @staticmethod
    def _returns_tensors(func: Any) -> bool:
        return any("Tensor" in str(each.type) for each in func._schema.returns)

    def _strip(self, values: Any) -> Any:
        return tree_map(lambda each: self._shape_of(each) if isinstance(each, Tensor) else each, values)

    def _shape_of(self, tensor: Tensor) -> Tensor:
        return tensor if isinstance(tensor, FakeTensor) else self._shapes.from_tensor(tensor)


def _is_computed(found: Any, *, follows: bool) -> bool:
    """Whether this result of tensors with values, or of none at all (not `follows`), gets values too."""
    most_reals = MAX_COMPUTED_REALS if follows else 0
    tensors = [each for each in tree_leaves(found) if isinstance(each, Tensor)]
    return all(
        each.numel() <= (most_reals if each.dtype.is_floating_point else MAX_COMPUTED) for each in tensors
    )


def _number_marks(indices: Any) -> list[Any]:
    """Indices with the places of marks instead of masks."""
    numbered: list[Any] = []
    for each in indices:
        is_mask = isinstance(each, Tensor) and each.dtype == torch.bool and not isinstance(each, FakeTensor)
        numbered += each.nonzero(as_tuple=True) if is_mask else [each]
    return numbered
