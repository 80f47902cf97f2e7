"""What a commit does to a table besides adding rows."""

from dataclasses import dataclass, field

from pipelines.digest import Totals


@dataclass(frozen=True, kw_only=True, slots=True)
class Replaced:
    """Shards that a write takes out of a table, because it brings their rows again, changed."""

    shards: tuple[str, ...] = ()
    """Paths as the log of the table has them."""
    totals: Totals = field(default_factory=Totals)
    """Of their rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What a commit does besides adding rows."""

    replaces: bool = False
    """All rows of before go."""
    removed: tuple[str, ...] = ()
    """Shards that go."""
    totals: Totals | None = None
    """Of the table afterwards; None = of the rows that the commit adds."""


def extend_totals(before: Totals, added: Totals, replaced: Replaced | None) -> Change:
    """The change of a table with the totals `before` that gets the rows `added` and loses those replaced."""
    both = before.add(added)
    if replaced is None:
        return Change(totals=both)
    return Change(totals=both.remove(replaced.totals), removed=replaced.shards)
