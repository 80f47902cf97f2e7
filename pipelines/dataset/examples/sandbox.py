"""A Jinja environment for templates from strangers: nothing is executed, and work and memory are bounded.

Jinja's sandbox keeps a template away from Python's internals, but `{{ "a" * 10**12 }}` or three nested loops
over range(100000) would still take all memory or run for ever. So a rendering has a budget. Every step of a
loop, every call of a macro, and every character or element of a value that is written, or made by an
operator, a slice, a call or a filter, takes some of it. What would be large is refused before it is made.
The count does not depend on the machine: what passes once passes everywhere.

Blocks, filters and globals are those of transformers 5, except that `strftime_now` takes a fixed date and
`lipsum` is gone.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sized
from datetime import date
from functools import wraps
from typing import Any

from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipelines.dataset.examples.marks import GENERATION_START, GENERATION_STOP, mark_as_json
from pipelines.dataset.examples.template_globals import (
    BudgetError,
    TemplateNamespace,
    format_date,
    make_dict,
    refuse,
)
from pipelines.dataset.examples.template_tree import (
    ITERATE,
    JOIN,
    MADE,
    STEP,
    WEIGH,
    count_work,
    find_compared,
)

BASE_UNITS, UNITS_PER_CHAR = 2_000_000, 100
"""Budget of a rendering, and more of it for each character of the messages: a template of Qwen, Llama or
Mistral uses fewer than 20 per character."""
STEP_UNITS = 10
"""Of a step of a loop, or a call of a macro: about a microsecond."""
MAX_INTEGER = 100_000
"""Largest integer argument of a call or filter, such as a width. Jinja's range has the same limit."""
MAX_INTEGER_BITS = 4_096
ELEMENTS_PER_UNIT = 256
"""Compared characters or elements: comparing is quick."""
_WIDE_FORMAT = re.compile(r"\d{4}|\*|:[^}]*\{")
_WRITING = ("tojson", "string", "urlencode", "escape", "e", "forceescape", "safe")
"""Filters that write any value as text."""
_UNBOUNDED = ("lipsum",)
_UNBOUNDED_FILTERS = ("xmlattr", "urlize", "wordwrap", "pprint", "filesizeformat", "striptags", "random")


class GenerationBlocks(Extension):
    """`{% generation %}`: what the model writes, as transformers and TRL mark it."""

    tags = {"generation"}
    environment: "BoundedEnvironment"

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Callable[[], str]) -> str:
        written = caller()
        return f"{GENERATION_START}{written}{GENERATION_STOP}" if self.environment.has_marks else written

    @staticmethod
    def are_in(source: str) -> bool:
        """Whether a template has such a block."""
        return re.search(r"\{%-?\s*generation\s*-?%\}", source) is not None


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Compiles and renders templates within a budget. One rendering at a time."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, today: date | None) -> None:
        # Not optimized: constants would be computed while the template is compiled.
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=self._charge_written,
            extensions=[GenerationBlocks, loopcontrols],
        )
        self._left = BASE_UNITS
        self.has_marks = False
        for name in _UNBOUNDED:
            del self.globals[name]
        self.globals |= {"raise_exception": refuse, "dict": make_dict, "namespace": TemplateNamespace}
        if today is not None:
            self.globals["strftime_now"] = lambda pattern: format_date(today, pattern)
        for name in _UNBOUNDED_FILTERS:
            del self.filters[name]
        self.filters["tojson"] = self._to_json
        self.filters = {name: self._bound(name, function) for name, function in self.filters.items()}
        self.filters |= {STEP: self._count_step, ITERATE: self._count_items, JOIN: self._join}
        self.filters |= {WEIGH: self._weigh, MADE: self._charge_made}

    def render(
        self, template: Any, variables: dict[str, Any], *, num_chars: int, has_marks: bool = False
    ) -> str:
        """What a template of `build` writes. `num_chars`: of the messages; `has_marks`: marks of marks.py
        stand for their texts.

        Raises whatever the template makes Python raise; TemplateError for what it refuses itself.
        """
        self._left, self.has_marks = BASE_UNITS + UNITS_PER_CHAR * num_chars, has_marks
        return "".join(template.generate(**variables))

    def build(self, source: str) -> tuple[Any, frozenset[str]]:
        """The compiled template, and the strings that it compares with or splits at."""
        self._left = BASE_UNITS
        tree = self.parse(source)
        strings = frozenset(find_compared(tree))
        count_work(tree)
        return self.template_class.from_code(self, self.compile(tree), self.make_globals(None)), strings

    def charge(self, units: int) -> None:
        """Take units of the budget. Raises BudgetError if it is spent."""
        if units > self._left:
            raise BudgetError("it wants more work or memory than the messages explain (an endless loop?)")
        self._left -= units

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        texts = [each for each in (left, right) if isinstance(each, (str, bytes, list, tuple))]
        if operator == "*" and texts:
            times = right if texts[0] is left else left
            self.charge(len(texts[0]) * max(0, times) if isinstance(times, int) else 0)
        elif operator == "+" and texts:
            self.charge(sum(map(len, texts)))
        elif operator == "%" and isinstance(left, (str, bytes)):
            if _WIDE_FORMAT.search(left if isinstance(left, str) else left.decode("latin-1")):
                raise BudgetError(f"the format {left[:40]!r} is too wide")
            self._charge_made(right)
        elif isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * max(1, right if operator == "**" else 1) + right.bit_length()
            if bits > MAX_INTEGER_BITS:
                raise BudgetError(f"an integer has more than {MAX_INTEGER_BITS} bits")
        return self._charge_made(super().call_binop(context, operator, left, right))

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        self._check_arguments([*args, *kwargs.values()])
        owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
        if isinstance(owner, (str, bytes)):
            self._charge_method(owner, name, args)
        return self._charge_made(super().call(context, function, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None and _WIDE_FORMAT.search(value.__self__):
            raise BudgetError(f"the format {value.__self__[:40]!r} is too wide")
        return wrapped

    def _bound(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The filter with its arguments checked and its result charged."""
        first = 1 if hasattr(function, "jinja_pass_arg") else 0  # behind the context or the environment

        @wraps(function)
        def bounded(*args: Any, **kwargs: Any) -> Any:
            own = args[first:]
            self._check_arguments([*own[1:], *kwargs.values()])
            for value in own:
                self._weigh(value)
            if isinstance(own[0], str) and name in ("replace", "indent", "format"):
                self._charge_method(own[0], name, (*own[1:], *kwargs.values()))
            elif name == "join":
                items, separator = list(own[0]), own[1] if len(own) > 1 else kwargs.get("d", "")
                self._charge_made(items)
                self.charge(len(items) * len(str(separator)))
                args = (*args[:first], items, *own[1:])
            elif name == "sum" and not isinstance(
                kwargs.get("start", own[2] if len(own) > 2 else 0), (int, float)
            ):
                raise BudgetError("sum starts from a number")
            elif name in _WRITING:
                self._charge_made(own[0])
            result = function(*args, **kwargs)
            return self._count_items(result) if isinstance(result, Iterator) else self._charge_made(result)

        return bounded

    def _check_arguments(self, values: Iterable[Any]) -> None:
        for value in values:
            if isinstance(value, int) and abs(value) > MAX_INTEGER:
                raise BudgetError(f"an argument is {value}, more than {MAX_INTEGER}")

    def _charge_method(self, text: Any, name: str, args: tuple[Any, ...]) -> None:
        """Charge what a method or filter of a text could make, before it does."""
        if name == "replace" and len(args) >= 2:
            self.charge(text.count(args[0]) * len(args[1]))
        elif name == "join" and args:
            if not isinstance(args[0], (str, list, tuple, dict)):
                raise BudgetError("join takes a list")
            self.charge(sum(len(str(each)) + len(text) for each in args[0]))
        elif name == "indent":
            lines, widths = text.count("\n") + 1, [each for each in args if isinstance(each, (int, str))]
            self.charge(lines * sum(each if type(each) is int else len(str(each)) for each in widths))
        elif name == "expandtabs":
            self.charge(text.count("\t") * (args[0] if args and isinstance(args[0], int) else 8))
        elif name == "format" and _WIDE_FORMAT.search(text):
            raise BudgetError(f"the format {text[:40]!r} is too wide")
        elif name == "translate":
            raise BudgetError("translate is not offered")

    def _charge_written(self, value: Any) -> Any:
        """The value that a template writes."""
        if isinstance(value, str):
            self.charge(len(value))
            return value
        return self._charge_made(value)

    def _charge_made(self, value: Any) -> Any:
        """The value, charged with everything inside it as often as it stands there: a list that holds another
        one twice, which holds another one twice, ... is small until it is written or compared."""
        level = [value]
        while level:
            each = level.pop()
            self.charge(1 + (len(each) if isinstance(each, Sized) else 0))
            if isinstance(each, (list, tuple, set)):
                level += each
            elif isinstance(each, dict):
                level += [*each.keys(), *each.values()]
        return value

    def _weigh(self, value: Any) -> Any:
        """The value, charged for being looked at."""
        self.charge(1 + (len(value) // ELEMENTS_PER_UNIT if isinstance(value, Sized) else 0))
        return value

    def _count_step(self, value: Any) -> str:
        self.charge(STEP_UNITS)
        return ""

    def _count_items(self, items: Any) -> Any:
        if isinstance(items, Sized):
            self.charge(len(items))
            return items
        return self._count_each(items)

    def _count_each(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.charge(1)
            yield item

    def _join(self, values: list[Any]) -> str:
        texts = [str(value) for value in values]
        self.charge(sum(map(len, texts)))
        return "".join(texts)

    def _to_json(self, value: Any, ensure_ascii: bool = False, indent: Any = None, **others: Any) -> str:
        """As in transformers: Jinja's own filter would escape HTML. A mark becomes that of its JSON text."""
        separators, sort_keys = others.pop("separators", None), others.pop("sort_keys", False)
        written = json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
            **others,
        )
        return mark_as_json(written) if self.has_marks else written
