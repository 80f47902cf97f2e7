"""What a kind of personal data is, and the edges that its pattern may have."""

import re
from collections.abc import Callable
from typing import NamedTuple

# Ideographs count as \w, so the edges name what must not touch: Latin letters and digits.
EDGE, END = r"(?<![0-9A-Za-z])", r"(?![0-9A-Za-z])"


class Kind(NamedTuple):
    """One kind of personal data."""

    hint: re.Pattern[str]
    """A part of what the pattern finds, which is found some times faster: most texts have none."""
    pattern: re.Pattern[str]
    is_real: Callable[[str], bool]
    placeholder: str


def accept_all(found: str) -> bool:
    """For kinds whose pattern is all that can be checked."""
    return True
