"""The values that records hold: str, `Scalar`, bool, None, list and dict (with str keys); bytes where a file
has no text."""


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
