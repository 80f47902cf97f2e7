"""A Jinja environment for templates from strangers: nothing is executed, and work and memory are bounded.

Jinja's sandbox keeps a template away from Python's internals, but `{{ "a" * 10**12 }}` or three nested loops
over range(100000) would still take all memory or run for ever. So a rendering has a budget. Each step of a
loop (more if its body is long), each call and filter takes some of it, and each character or element that is
written, compared, searched or made. The largest result that an operation could have is charged before it is
carried out; only what Python makes in proportion to what has been charged already (upper-case letters,
escapes, lists of characters) is charged once it is there, so memory is a small multiple of the budget. What
could not be counted is refused: other kinds of values and methods, widths of three digits, and a few filters.
The count does not depend on the machine: what passes once passes everywhere. Compiling takes no budget but
for its constants; it is linear in the template, whose length chat_template.py limits.

Blocks, filters and globals are those of transformers 5, except that `strftime_now` takes a fixed date, and
that `lipsum` and the filters in template_filters.UNBOUNDED_FILTERS are gone.
"""

from collections.abc import Callable
from datetime import date
from functools import wraps
from typing import Any

from jinja2 import nodes, pass_context
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipelines.dataset.examples import template_tree
from pipelines.dataset.examples.marks import GENERATION_START, GENERATION_STOP, mark_as_json
from pipelines.dataset.examples.template_budget import MAX_INTEGER_BITS, STEP_UNITS, Budget
from pipelines.dataset.examples.template_calls import charge_call, charge_format, charge_percent
from pipelines.dataset.examples.template_filters import (
    UNBOUNDED_FILTERS,
    bound_filter,
    bound_test,
    check_integers,
    contains,
    dump_json,
)
from pipelines.dataset.examples.template_globals import (
    BudgetError,
    TemplateNamespace,
    format_date,
    make_dict,
    refuse,
)

BASE_UNITS, UNITS_PER_CHAR = 2_000_000, 100
"""Budget of a rendering, and more of it for each character of the messages: a template of Qwen, Llama or
Mistral uses fewer than 20 per character."""
NODES_PER_UNIT = 8
"""Of the body of a loop or macro: so much more does a step cost."""
_UNBOUNDED = ("lipsum",)


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


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Compiles and renders templates within a budget. One rendering at a time."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})

    def __init__(self, today: date | None) -> None:
        # Not optimized: constants would be computed while the template is compiled.
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=self._charge_written,
            extensions=[GenerationBlocks, loopcontrols],
        )
        self.budget = Budget(BASE_UNITS)
        self.has_marks = False
        for name in _UNBOUNDED:
            del self.globals[name]
        self.globals |= {"raise_exception": refuse, "dict": make_dict, "namespace": TemplateNamespace}
        if today is not None:
            self.globals["strftime_now"] = lambda pattern: format_date(today, pattern)
        for name in UNBOUNDED_FILTERS:
            del self.filters[name]
        self.filters["tojson"] = self._to_json
        budget, tests = self.budget, dict[str, Any](self.tests)
        self.filters = {name: bound_filter(budget, name, each) for name, each in self.filters.items()}
        self.tests = {name: bound_test(budget, name, each) for name, each in tests.items()}
        self.filters |= {
            template_tree.STEP: self._count_step,
            template_tree.ITERATE: budget.count_items,
            template_tree.JOIN: self._join,
            template_tree.WEIGH: budget.weigh,
            template_tree.MADE: budget.make,
            template_tree.SLICED: self._charge_slice,
            template_tree.WRITTEN: self._charge_template,
            template_tree.CONTAINS: lambda value, container: contains(budget, value, container),
        }

    def render(
        self, template: Any, variables: dict[str, Any], *, num_chars: int, has_marks: bool = False
    ) -> str:
        """What a template of `build` writes. `num_chars`: of the messages; `has_marks`: marks of marks.py
        stand for their texts.

        Raises whatever the template makes Python raise; TemplateError for what it refuses itself.
        """
        self.budget.left, self.has_marks = BASE_UNITS + UNITS_PER_CHAR * num_chars, has_marks
        return "".join(template.generate(**variables))

    def build(self, source: str) -> tuple[Any, frozenset[str]]:
        """The compiled template, and the strings that it compares with or splits at."""
        self.budget.left = BASE_UNITS
        tree = self.parse(source)
        strings = frozenset(template_tree.find_compared(tree))
        template_tree.count_work(tree)
        return self.template_class.from_code(self, self.compile(tree), self.make_globals(None)), strings

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        self.budget.charge(1)
        if operator == "%" and isinstance(left, str):
            charge_percent(self.budget, left, right)
        elif isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * max(1, right if operator == "**" else 1) + right.bit_length()
            if bits > MAX_INTEGER_BITS:
                raise BudgetError(f"an integer has more than {MAX_INTEGER_BITS} bits")
        elif operator == "*":
            texts = [each for each in (left, right) if isinstance(each, (str, list, tuple))]
            times = right if texts and texts[0] is left else left
            self.budget.charge(len(texts[0]) * max(0, times) if texts and isinstance(times, int) else 0)
        else:
            for each in (left, right):
                self.budget.charge(len(each)) if isinstance(each, str) else self.budget.weigh(each)
        return self.budget.make(super().call_binop(context, operator, left, right))

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.budget.charge(STEP_UNITS)
        check_integers([*args, *kwargs.values()])
        args = charge_call(self.budget, function, args, kwargs)
        return self.budget.make(super().call(context, function, *args, **kwargs))

    def getitem(self, obj: Any, argument: Any) -> Any:
        # A tuple is hashed as a whole, every time.
        return super().getitem(obj, self.budget.weigh(argument))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        @wraps(wrapped)
        def bounded(*args: Any, **kwargs: Any) -> str:
            charge_format(self.budget, value.__self__, [*args, *kwargs.values()])
            return wrapped(*args, **kwargs)

        return bounded

    @pass_context  # so that Jinja writes no constant without asking
    def _charge_written(self, context: Context, value: Any) -> Any:
        """The value that a template writes."""
        return self.budget.make(value)

    def _charge_template(self, num_chars: int) -> str:
        """Charge what the template writes of its own."""
        self.budget.charge(num_chars)
        return ""

    def _charge_slice(self, value: Any) -> Any:
        self.budget.charge(1 + (len(value) if isinstance(value, (str, list, tuple)) else 0))
        return value

    def _count_step(self, num_nodes: int) -> str:
        self.budget.charge(STEP_UNITS + num_nodes // NODES_PER_UNIT)
        return ""

    def _join(self, values: list[Any]) -> str:
        self.budget.make(values)
        return "".join(map(str, values))

    def _to_json(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        """As in transformers: Jinja's own filter would escape HTML. A mark becomes that of its JSON text."""
        written = dump_json(self.budget, value, ensure_ascii, indent, separators, sort_keys)
        return mark_as_json(written) if self.has_marks else written
