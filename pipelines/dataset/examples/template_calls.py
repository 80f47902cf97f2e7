"""The methods that a template may call, and what each could make, charged before it does (sandbox.py)."""

import re
from collections.abc import Iterator
from string import Formatter
from types import BuiltinMethodType, MethodType
from typing import Any

from jinja2.ext import Extension
from jinja2.runtime import LoopContext
from jinja2.utils import Cycler

from pipelines.dataset.examples.template_budget import CHARS_PER_UNIT, Budget
from pipelines.dataset.examples.template_globals import BudgetError

_SEARCHING = ("count", "find", "index", "partition", "replace", "split", "startswith", "endswith")
_SEARCHING_BACKWARD = ("rfind", "rindex", "rpartition", "rsplit")
_STRIPPING = ("strip", "lstrip", "rstrip")
_FILLING = ("center", "ljust", "rjust", "zfill")
_SPLITTING = ("split", "rsplit", "splitlines")
_OTHERS = (
    *("capitalize", "casefold", "lower", "swapcase", "title", "upper", "expandtabs", "join"),
    *(
        "removeprefix",
        "removesuffix",
        "isalnum",
        "isalpha",
        "isascii",
        "isdecimal",
        "isdigit",
        "isidentifier",
    ),
    *("islower", "isnumeric", "isprintable", "isspace", "istitle", "isupper"),
)
TEXT_METHODS = frozenset((*_SEARCHING, *_SEARCHING_BACKWARD, *_STRIPPING, *_FILLING, *_SPLITTING, *_OTHERS))
"""Those of str without translate and encode; format and format_map are functions of the sandbox."""
_METHODS: tuple[tuple[type | tuple[type, ...], frozenset[str]], ...] = (
    (str, TEXT_METHODS),
    (dict, frozenset({"get", "items", "keys", "values", "copy"})),
    ((list, tuple), frozenset({"index", "count", "copy"})),
    (LoopContext, frozenset({"cycle", "changed"})),
    (Cycler, frozenset({"next", "reset"})),
    (Extension, frozenset({"_mark"})),
)
_FIELD_UNITS = 512
"""More than a format writes around a value: two digits of width, the digits of a large float."""
_DIRECTIVE = re.compile(r"%(?:\([^()%]{0,64}\))?[#0 +-]{0,4}\d{0,2}(?:\.\d{0,2})?[a-zA-Z%]")
_FIELD_NAME = re.compile(r"\w{0,64}")
_FIELD_FORMAT = re.compile(r"(?:(?!\d{3})[^{}]){0,16}")


def charge_call(budget: Budget, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The arguments for a function, charged with what it could make. Raises BudgetError for a method that is
    not offered."""
    for value in (*args, *kwargs.values()):
        budget.weigh(value)
    if not isinstance(function, (MethodType, BuiltinMethodType)):
        return args
    owner, name = function.__self__, function.__name__
    if not any(isinstance(owner, kinds) and name in names for kinds, names in _METHODS):
        raise BudgetError(f"{type(owner).__name__}.{name} is not offered")
    if isinstance(owner, str):
        return _charge_text_method(budget, owner, name, args, kwargs)
    if name in ("index", "count"):
        budget.weigh(owner)
    return args


def _charge_text_method(
    budget: Budget, text: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, ...]:
    first = args[0] if args else next(iter(kwargs.values()), None)
    budget.charge(len(text) // (1 if name in _SPLITTING else CHARS_PER_UNIT))
    if name in _SEARCHING or name in _SEARCHING_BACKWARD:
        budget.search(text, kwargs.get("sep", first), is_backward=name in _SEARCHING_BACKWARD)
    elif name in _STRIPPING:
        charge_stripping(budget, text, first)
    elif name in _FILLING and isinstance(first, int):
        budget.charge(max(0, first))
    elif name == "expandtabs":
        budget.charge(text.count("\t") * max(0, first if isinstance(first, int) else 8))
    elif name == "join":
        return (_charge_join(budget, text, first), *args[1:])
    if name == "replace" and len(args) >= 2:
        charge_replacing(budget, text, args[0], args[1])
    return args


def _charge_join(budget: Budget, text: str, items: Any) -> Any:
    items = list(items) if isinstance(items, Iterator) else items
    if not isinstance(items, (str, list, tuple, dict)):
        raise BudgetError(f"join takes a list, got {type(items).__name__}")
    budget.charge(sum(len(text) + (len(each) if isinstance(each, str) else 1) for each in items))
    return items


def charge_stripping(budget: Budget, text: str, chars: Any) -> None:
    if isinstance(chars, str):
        budget.charge(len(text) * len(chars) // CHARS_PER_UNIT)


def charge_replacing(budget: Budget, text: str, old: Any, new: Any) -> None:
    if isinstance(old, str) and isinstance(new, str):
        budget.search(text, old)
        budget.charge(text.count(old) * len(new))


def charge_percent(budget: Budget, text: str, values: Any) -> None:
    """Charge `text % values`. Raises BudgetError for a width of three digits, or one among the values."""
    budget.charge(len(text))
    if "%" in _DIRECTIVE.sub("", text):
        raise BudgetError(f"the format {text[:40]!r} has a directive that is too wide, or unknown")
    _charge_fields(budget, text.count("%"), values)


def charge_format(budget: Budget, text: str, values: Any) -> None:
    """Charge `text.format(values)`. Raises BudgetError for a width of three digits, or one among the values,
    and for a look-up such as {0.role}: what it finds is of unknown size."""
    budget.charge(len(text))
    count = 0
    for _, name, spec, _ in Formatter().parse(text):
        if name is None:
            continue
        count += 1
        if not _FIELD_NAME.fullmatch(name) or not _FIELD_FORMAT.fullmatch(spec or ""):
            raise BudgetError(f"the format {text[:40]!r} has a field that is too wide, or looks something up")
    _charge_fields(budget, count, values)


def _charge_fields(budget: Budget, count: int, values: Any) -> None:
    """Each of `count` fields may write all of the values."""
    left = budget.left
    budget.make(values)
    budget.charge(max(0, count - 1) * (left - budget.left) + count * _FIELD_UNITS)
