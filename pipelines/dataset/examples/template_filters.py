"""Filters and tests of templates: arguments and what they could make are charged first (sandbox.py)."""

import json
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from inspect import signature
from typing import Any

from pipelines.dataset.examples.template_budget import STEP_UNITS, Budget
from pipelines.dataset.examples.template_calls import charge_percent, charge_replacing, charge_stripping
from pipelines.dataset.examples.template_globals import BudgetError

MAX_INTEGER = 100_000
"""Largest integer argument of a call or filter, such as a width. Jinja's range has the same limit."""
MAX_PRECISION, MAX_INDENT, MAX_SEPARATOR, MAX_LOOKUPS = 20, 16, 16, 3
UNBOUNDED_FILTERS = (*("xmlattr", "urlize", "wordwrap", "pprint", "filesizeformat", "striptags", "random"),)
"""Not offered."""
_LOOKING = frozenset({"length", "count", "default", "d", "first", "last", "attr"})
"""Filters that give a part of what there is already, in constant time."""
_REARRANGING = frozenset(
    {"list", "reverse", "map", "select", "reject", "selectattr", "rejectattr", "items", "batch", "slice"}
)
"""Filters that go through the elements and look into none."""
_RENEWING = frozenset({"batch", "slice"})
"""Those among them whose results may hold an argument many times."""
_GROWING = frozenset({"indent", "join"})
"""Filters that may write much without any argument."""
_COMPARING = frozenset(
    {
        "==",
        "eq",
        "equalto",
        "!=",
        "ne",
        ">",
        "gt",
        "greaterthan",
        ">=",
        "ge",
        "<",
        "lt",
        "lessthan",
        "<=",
        "le",
    }
)
Arguments = dict[str, Any]


def check_integers(values: Iterable[Any]) -> None:
    for value in values:
        if isinstance(value, int) and abs(value) > MAX_INTEGER:
            raise BudgetError(f"an argument is {value:.3e}, more than {MAX_INTEGER:,}")


def bound_filter(budget: Budget, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter with its arguments checked, and charged with what it could make and what it made."""
    first = 1 if hasattr(function, "jinja_pass_arg") else 0  # behind the context or the environment
    rule = _RULES.get(name)
    parameters = signature(function) if rule is not None else None

    @wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        budget.charge(STEP_UNITS)
        value, others = args[first], [*args[first + 1 :], *kwargs.values()]
        check_integers(others)
        for other in others:
            budget.make(other)
        if name in _REARRANGING:
            value = budget.count_items(value)
        elif name not in _LOOKING:
            budget.make(value)
        args = (*args[:first], value, *args[first + 1 :])
        if rule is not None and parameters is not None and (others or name in _GROWING):
            given = parameters.bind(*args, **kwargs)
            given.apply_defaults()
            rule(budget, given.arguments)
            args, kwargs = given.args, given.kwargs
        result = function(*args, **kwargs)
        if isinstance(result, Iterator):
            return budget.count_items(result)
        if name in _LOOKING or (name in _REARRANGING and name not in _RENEWING):
            budget.charge(len(result) if isinstance(result, (str, list)) and name in _REARRANGING else 1)
            return result
        return budget.make(result)

    return bounded


def bound_test(budget: Budget, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The test, charged for what it looks at."""

    @wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        budget.charge(1)
        if name in _COMPARING:
            for value in (*args, *kwargs.values()):
                budget.weigh(value)
        elif name in ("lower", "upper"):  # of the value as text
            value = args[0]
            budget.weigh(value) if isinstance(value, str) else budget.make(value)
        elif name == "in":
            return contains(budget, args[0], args[1])
        return function(*args, **kwargs)

    return bounded


def contains(budget: Budget, value: Any, container: Any) -> bool:
    """`value in container`, charged."""
    budget.weigh(value)
    budget.weigh(container)
    if isinstance(container, str):
        budget.search(container, value)
    return value in container


def dump_json(
    budget: Budget, value: Any, ensure_ascii: bool, indent: Any, separators: Any, sort_keys: bool
) -> str:
    """JSON as tojson of transformers writes it. Raises BudgetError for a long indent or separator."""
    if indent is not None and not (isinstance(indent, int) and indent <= MAX_INDENT):
        raise BudgetError(f"tojson takes an indent of at most {MAX_INDENT}, got {indent!r:.40}")
    if separators is not None and not (
        isinstance(separators, (list, tuple))
        and all(isinstance(each, str) and len(each) <= MAX_SEPARATOR for each in separators)
    ):
        raise BudgetError(f"tojson takes separators of at most {MAX_SEPARATOR} characters")
    size = budget.measure(value, 1)
    budget.charge(size.num_values * (2 * MAX_SEPARATOR if separators else 1))
    budget.charge(size.num_values * size.depth * max(0, indent or 0))
    layout: Any = {"indent": indent, "separators": separators, "sort_keys": sort_keys}
    return json.dumps(value, ensure_ascii=ensure_ascii, **layout)


def _check_lookups(attribute: Any) -> None:
    """Refuse an attribute such as 0.0.0.0.0: its look-ups are not counted."""
    if isinstance(attribute, str) and attribute.count(".") + attribute.count(",") > MAX_LOOKUPS:
        raise BudgetError(f"the attribute {attribute[:40]!r} has more than {MAX_LOOKUPS} dots and commas")


def _replace(budget: Budget, given: Arguments) -> None:
    charge_replacing(budget, *(str(given[name]) for name in ("s", "old", "new")))


def _indent(budget: Budget, given: Arguments) -> None:
    text, width = given["s"], given["width"]
    num_lines = len(text.splitlines()) + 1 if isinstance(text, str) else 1
    budget.charge(num_lines * (len(width) if isinstance(width, str) else max(0, int(width))))


def _join(budget: Budget, given: Arguments) -> None:
    _check_lookups(given["attribute"])
    budget.charge(len(given["value"]) if isinstance(given["value"], str) else 0)
    given["value"] = list(given["value"])
    budget.make(given["value"])
    budget.charge(len(given["value"]) * len(str(given["d"])))


def _sum(budget: Budget, given: Arguments) -> None:
    _check_lookups(given["attribute"])
    if not isinstance(given["start"], (int, float)):
        raise BudgetError("sum starts from a number")


def _round(budget: Budget, given: Arguments) -> None:
    if not isinstance(given["precision"], int) or abs(given["precision"]) > MAX_PRECISION:
        raise BudgetError(
            f"round takes a precision of at most {MAX_PRECISION}, got {given['precision']!r:.40}"
        )


def _batch(budget: Budget, given: Arguments) -> None:
    count = given.get("linecount", given.get("slices"))
    budget.charge(count if isinstance(count, int) and count > 0 else 0)


_RULES: dict[str, Callable[[Budget, Arguments], None]] = {
    "replace": _replace,
    "indent": _indent,
    "join": _join,
    "sum": _sum,
    "round": _round,
    "batch": _batch,
    "slice": _batch,
    "center": lambda budget, given: budget.charge(max(0, int(given["width"]))),
    "trim": lambda budget, given: charge_stripping(budget, str(given["value"]), given["chars"]),
    "format": lambda budget, given: charge_percent(
        budget, str(given["value"]), given["kwargs"] or given["args"]
    ),
    "map": lambda budget, given: _check_lookups(given["kwargs"].get("attribute")),
    **dict.fromkeys(
        ("selectattr", "rejectattr"), lambda budget, given: _check_lookups(next(iter(given["args"]), None))
    ),
    **dict.fromkeys(
        ("sort", "unique", "min", "max", "groupby"), lambda budget, given: _check_lookups(given["attribute"])
    ),
}
