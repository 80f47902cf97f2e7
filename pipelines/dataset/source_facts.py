"""How much of each source the sequences have, among the facts of their commit: a mixture is planned from them
without opening a file. Without Spark, because plans read them.
"""

from collections.abc import Mapping
from typing import Any

from pipelines.dataset.earlier import add_counts

FACT = "sources"
KEPT = ("sequences", "tokens")
MAX_SOURCES = 1_000
"""In all splits together: a commit is read whole by everyone who opens the table. 50 bytes each."""

Counts = Mapping[str, Mapping[str, Mapping[str, int]]]
"""split -> source -> name -> count"""
Facts = dict[str, dict[str, dict[str, int]]]
"""split -> source -> KEPT"""


def describe_sources(counts: Counts) -> dict[str, Facts]:
    """The fact, or nothing if there are too many sources."""
    kept = {
        split: dict(sorted(_keep(sources).items())) for split, sources in sorted(counts.items()) if sources
    }
    return {FACT: kept} if sum(map(len, kept.values())) <= MAX_SOURCES else {}


def describe_changed(earlier: Mapping[str, Any], added: Counts, removed: Counts) -> dict[str, Facts]:
    """The fact after some sequences were replaced; nothing if the `earlier` facts lack it, because an earlier
    Distributary wrote them or the sources were too many."""
    before: Counts | None = earlier.get(FACT)
    if before is None:
        return {}
    changed = {
        split: add_counts(*(_keep(counts.get(split, {})) for counts in (before, added, removed)))
        for split in {*before, *added}
    }
    return describe_sources(changed)


def read_sources(facts: Mapping[str, Any], split: str) -> dict[str, dict[str, int]] | None:
    """source -> KEPT of a split; None if the facts do not say it."""
    found: Facts | None = facts.get(FACT)
    return None if found is None else found.get(split, {})


def _keep(sources: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    return {source: {name: of[name] for name in KEPT} for source, of in sources.items()}
