"""Gradients in a few flat buffers that are exchanged between ranks while backward still runs.

The trainable parameters are dealt to buckets in reverse order (backward reaches the last layers first) until
a bucket holds `BUCKET_BYTES`. Each parameter's `grad` is a view into its bucket, so nothing is copied. When
the last backward pass of a step has filled a bucket, and all buckets before it were sent, the bucket is sent.
Buckets and their order depend on the model only, so all ranks send the same buffers in the same order, and
the order of additions is the same in every run.

A parameter that gets no gradient delays the sending of its bucket, and of those after it, to the end of
backward; the result is the same. Cost: no memory beyond one gradient per parameter.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipelines.finetune.parallel.collectives.interface import Pending

BUCKET_BYTES = 8 * 2**20
"""A bucket is sent when it is full: small enough that the first leaves early, large enough that latency does
not count.
"""


class Slot(NamedTuple):
    """Where a parameter lies in its bucket."""

    name: str
    parameter: nn.Parameter
    start: int
    """First element in the bucket's buffer."""

    @property
    def stop(self) -> int:
        return self.start + self.parameter.numel()


class Bucket:
    """Some parameters of one type and device, end to end in one buffer."""

    def __init__(self, named: list[tuple[str, nn.Parameter]], *, with_flags: bool, multiple: int) -> None:
        self.slots: list[Slot] = []
        start = 0
        for name, parameter in named:
            self.slots.append(Slot(name, parameter, start))
            start += parameter.numel()
        size = start + (len(named) if with_flags else 0)
        first = named[0][1]
        self.flat = torch.zeros(-(-size // multiple) * multiple, dtype=first.dtype, device=first.device)
        """(num_elements,): gradients, then with `with_flags` one number per parameter, then zeros to a
        multiple.
        """
        self.flags = self.flat[start:size]
        """(num_parameters,) 1 = has a gradient; after the sum over ranks, the number of ranks that have one.
        """

    def view(self, slot: Slot) -> Tensor:
        """The parameter's elements of the buffer, in its shape."""
        return self.flat[slot.start : slot.stop].view_as(slot.parameter)


class GradientBuckets:
    """All buckets of a model, and the hooks that send them."""

    def __init__(
        self, model: nn.Module, send: Callable[[Bucket, str], Pending], *, with_flags: bool, multiple: int = 1
    ) -> None:
        """`send` starts the exchange of a full bucket under a name; `multiple`: buffers are padded to
        this.
        """
        self._send = send
        self.buckets = [
            Bucket(named, with_flags=with_flags, multiple=multiple)
            for named in deal_parameters(model.named_parameters())
        ]
        self._home: dict[nn.Parameter, int] = {}
        for number, bucket in enumerate(self.buckets):
            for slot in bucket.slots:
                self._home[slot.parameter] = number
                slot.parameter.register_post_accumulate_grad_hook(self._after_gradient)
        self.touched: set[nn.Parameter] = set()
        """Parameters that got a gradient on this rank in this step."""
        self._waiting: list[set[nn.Parameter]] = []
        self._pending: list[Pending] = []
        self._is_last_pass = False

    def begin(self) -> None:
        """Before the first backward pass of a step: gradients are zero."""
        self.touched.clear()
        self._pending, self._is_last_pass = [], False
        self._waiting = [{slot.parameter for slot in bucket.slots} for bucket in self.buckets]
        for bucket in self.buckets:
            bucket.flat.zero_()
            for slot in bucket.slots:
                slot.parameter.grad = bucket.view(slot)

    def begin_last_pass(self) -> None:
        """Before the last backward pass of a step: from now on, full buckets are sent."""
        self._is_last_pass = True

    def send_rest(self) -> None:
        """After the last backward pass: send what a parameter without gradient has held back."""
        for waiting in self._waiting:
            waiting.clear()
        self._send_full()

    def wait(self) -> None:
        """Return when every bucket has been exchanged."""
        for pending in self._pending:
            pending.wait()
        self._pending = []

    def _after_gradient(self, parameter: nn.Parameter) -> None:
        self.touched.add(parameter)
        if self._is_last_pass:
            self._waiting[self._home[parameter]].discard(parameter)
            self._send_full()

    def _send_full(self) -> None:
        """Send full buckets in their order: a full one waits for those before it."""
        while len(self._pending) < len(self.buckets) and not self._waiting[len(self._pending)]:
            bucket = self.buckets[len(self._pending)]
            for flag, slot in zip(bucket.flags, bucket.slots, strict=False):
                flag.fill_(slot.parameter in self.touched)
            self._pending.append(self._send(bucket, f"gradients.{len(self._pending)}"))


def deal_parameters(named: Iterable[tuple[str, nn.Parameter]]) -> Iterator[list[tuple[str, nn.Parameter]]]:
    """Trainable parameters in reverse order, cut where a bucket is full or the type or device changes."""
    bucket: list[tuple[str, nn.Parameter]] = []
    num_bytes = 0
    for name, parameter in reversed([each for each in named if each[1].requires_grad]):
        kind = (parameter.dtype, parameter.device)
        if bucket and (num_bytes >= BUCKET_BYTES or kind != (bucket[0][1].dtype, bucket[0][1].device)):
            yield bucket
            bucket, num_bytes = [], 0
        bucket.append((name, parameter))
        num_bytes += parameter.numel() * parameter.element_size()
    if bucket:
        yield bucket
