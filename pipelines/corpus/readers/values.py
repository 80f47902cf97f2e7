"""The values that records hold: str, `Scalar`, bool, None, list and dict (with str keys); bytes if a file has
no text.

A string contains neither U+0000 nor half of a surrogate pair: text never has the first, UTF-8 cannot write
the second. Bytes that were decoded are checked by `lines.decode`, other strings by `check_strings`.
"""

from pipelines.corpus.readers.format import MalformedError


class Scalar(str):
    """A value that is not a string in the file, as text: an id of 20 digits must not change on the way."""

    __slots__ = ()
    kind = "a scalar"


class Number(Scalar):
    __slots__ = ()
    kind = "a number"


class Moment(Scalar):
    __slots__ = ()
    kind = "a date or time"


_KINDS = {str: "a string", bool: "a bool", list: "an array", dict: "an object", bytes: "binary"}


def describe_kind(value: object) -> str:
    """The kind of a value, for messages."""
    if value is None:
        return "null or missing"
    return value.kind if isinstance(value, Scalar) else _KINDS.get(type(value), f"a {type(value).__name__}")


def check_strings(value: object, name: str) -> None:
    """Raises MalformedError if a string in the value of field `name` is not text, at any depth."""
    waiting = [value]  # not by recursion: a value may be nested as deeply as Python's stack
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            waiting += [part for pair in each.items() for part in pair]
        elif isinstance(each, list):
            waiting += each
        elif isinstance(each, str):
            _check_string(each, name)


def _check_string(value: str, name: str) -> None:
    if "\0" in value:
        raise MalformedError(f"NUL: field {name!r} contains the character U+0000")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        problem = f"U+{ord(value[error.start]):04X} in field {name!r}"
        raise MalformedError(f"lone surrogate: {problem}") from None
