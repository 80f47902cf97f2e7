"""The budget of a rendering: what has been used, and what a value costs to make or to look at (sandbox.py).

Every kind of value that a template can hold is known here, with what is inside it. A value of another kind is
refused: its size would not be known.
"""

from collections.abc import ItemsView, Iterable, Iterator, KeysView, ValuesView
from numbers import Number
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, NamedTuple

from jinja2.ext import Extension
from jinja2.runtime import BlockReference, LoopContext, Macro, TemplateReference, Undefined
from jinja2.utils import Cycler, Joiner, Namespace

from pipelines.dataset.examples.template_globals import BudgetError

STEP_UNITS = 10
"""Of a step of a loop, a call or a filter: about a microsecond."""
CHARS_PER_UNIT = 64
"""Characters that are only looked at, such as compared, for one unit."""
MAX_INTEGER_BITS = 4_096
_NEEDLE = 100
"""Python searches for longer texts in linear time, for shorter ones in time of their length."""
_LEAVES = (
    *(Undefined, Macro, LoopContext, Joiner, TemplateReference, BlockReference, Extension),
    *(range, FunctionType, BuiltinFunctionType, type, Iterator),
)
"""Written as a few characters, and equal only to themselves."""


class Size(NamedTuple):
    num_values: int
    """The value and all inside it, as often as they stand there."""
    depth: int


class Budget:
    """Units left for a rendering."""

    def __init__(self, units: int) -> None:
        self.left = units

    def charge(self, units: int) -> None:
        """Take units of the budget. Raises BudgetError if it is spent."""
        if units > self.left:
            raise BudgetError("it wants more work or memory than the messages explain (an endless loop?)")
        self.left -= units

    def weigh(self, value: Any) -> Any:
        """The value, charged for being looked at as a whole, as a comparison does."""
        if not isinstance(value, (str, int, type(None))):
            self.measure(value, CHARS_PER_UNIT)
        elif isinstance(value, str):
            self.charge(1 + len(value) // CHARS_PER_UNIT)
        return value

    def make(self, value: Any) -> Any:
        """The value, charged as if all inside it were written, as often as it stands there: a list that holds
        another one twice, which holds another one twice, ... is small until it is written or compared."""
        if isinstance(value, str):
            self.charge(1 + len(value))
        else:
            self.measure(value, 1)
        return value

    def measure(self, value: Any, chars_per_unit: int) -> Size:
        """Size of a value that is charged for all inside it. Raises BudgetError for an unknown kind."""
        level, num_values, depth = [value], 0, 0
        while level:
            self.charge(len(level))
            num_values, depth = num_values + len(level), depth + 1
            below: list[Any] = []
            for each in level:
                if isinstance(each, str):
                    self.charge(len(each) // chars_per_unit)
                else:
                    children = self._open(each)
                    self.charge(len(children))
                    below += children
            level = below
        return Size(num_values, depth)

    def _open(self, value: Any) -> list[Any] | tuple[Any, ...]:
        """What is inside a value, as far as it is written or compared with it."""
        if isinstance(value, (list, tuple)):
            return value
        if isinstance(value, dict):
            return [*value.keys(), *value.values()]
        if value is None or isinstance(value, Number):
            self._charge_number(value)
            return ()
        if isinstance(value, (set, frozenset, KeysView, ValuesView, ItemsView)):
            self.charge(len(value))
            return list(value)
        if isinstance(value, Namespace):
            return self._open(object.__getattribute__(value, "_Namespace__attrs"))
        if isinstance(value, Cycler):
            return value.items
        if isinstance(value, MethodType):
            return (value.__self__,)
        if isinstance(value, Macro):
            self.charge(len(value.name or ""))
        elif isinstance(value, range):
            self.charge(len(value))
        elif not isinstance(value, _LEAVES):
            raise BudgetError(f"a value of type {type(value).__name__} is not offered")
        return ()

    def _charge_number(self, value: Any) -> None:
        if isinstance(value, int):
            if value.bit_length() > MAX_INTEGER_BITS:
                raise BudgetError(f"an integer has more than {MAX_INTEGER_BITS} bits")
            self.charge(value.bit_length() // 3)

    def search(self, text: str, wanted: Any, *, is_backward: bool = False) -> None:
        """Charge the search for a text in another one. From behind, Python searches in quadratic time."""
        if isinstance(wanted, str):
            length = len(wanted) if is_backward else min(len(wanted), _NEEDLE)
            self.charge(1 + len(text) * max(1, length) // CHARS_PER_UNIT)

    def count_items(self, items: Any) -> Any:
        """The items, charged one by one, or all before the first if their number is known."""
        if isinstance(items, Iterator):
            return self._count_each(items)
        if hasattr(items, "__len__"):
            self.charge(len(items))
        return items

    def _count_each(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.charge(1)
            if isinstance(item, (list, tuple)):  # made just now, by batch, slice or items
                self.weigh(item)
            yield item
