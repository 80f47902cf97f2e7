"""The values that records hold: str, `Scalar`, bool, None, list and dict (with str keys); bytes if a file has
no text.

A string contains neither U+0000 nor half of a surrogate pair: text never has the first, UTF-8 cannot write
the second. Bytes that were decoded are checked by `lines.decode`, other strings by `check_strings`.
"""

from pipelines.corpus.readers.format import MalformedError


class Scalar(str):
    """A value that is not a string in the file, as text: an id of 20 digits must not change on the way."""

    kind = "a scalar"


class Number(Scalar):
    kind = "a number"


class Moment(Scalar):
    kind = "a date or time"


_KINDS = {str: "a string", bool: "a bool", list: "an array", dict: "an object", bytes: "binary"}


def describe_kind(value: object) -> str:
    """The kind of a value, for messages."""
    if value is None:
        return "null or missing"
    return value.kind if isinstance(value, Scalar) else _KINDS.get(type(value), f"a {type(value).__name__}")


def check_strings(value: object, name: str) -> None:
    """Raises MalformedError if a string in the value of field `name` is not text, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            check_strings(key, name)
            check_strings(inner, name)
    elif isinstance(value, list):
        for inner in value:
            check_strings(inner, name)
    elif isinstance(value, str):
        if "\0" in value:
            raise MalformedError(f"NUL: field {name!r} contains the character U+0000")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            problem = f"U+{ord(value[error.start]):04X} in field {name!r}"
            raise MalformedError(f"lone surrogate: {problem}") from None
