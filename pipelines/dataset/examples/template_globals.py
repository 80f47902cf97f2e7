"""What a chat template may call, as in transformers 5, and the error for what goes beyond its budget."""

import re
from collections.abc import Iterable
from datetime import date, datetime
from typing import Any

from jinja2 import TemplateError
from jinja2.exceptions import SecurityError
from jinja2.utils import Namespace

_DATE_FORMAT = re.compile(r"(?:[^%]|%-?[A-Za-z%])*")


class BudgetError(TemplateError):
    """A template wants more work or memory than a rendering may take."""


class TemplateNamespace(Namespace):
    """Jinja's namespace without names that begin with an underscore, as in transformers."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        # Without a name for itself, so that namespace(self=...) works.
        _require_public(dict(*args[1:], **kwargs))
        Namespace.__init__(*args, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _require_public([name])
        super().__setitem__(name, value)


def _require_public(names: Iterable[Any]) -> None:
    for name in names:
        if isinstance(name, str) and name.startswith("_"):
            raise SecurityError(f"a namespace takes no name that begins with '_', got {name!r}")


def refuse(message: str) -> None:
    raise TemplateError(str(message))


def make_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


def format_date(today: date, pattern: str) -> str:
    if not isinstance(pattern, str) or not _DATE_FORMAT.fullmatch(pattern):
        raise BudgetError(f"strftime_now takes plain directives such as %d %b %Y, got {pattern!r:.40}")
    return datetime(today.year, today.month, today.day).strftime(pattern)
