"""A set of labels as one string: a JSON array of their names, sorted by code point, each once.

Equal sets are equal strings, so tables compare, join and hash them like single labels, and Spark reads them
with `from_json(label, 'array<string>')`. No label is `[]`. Standard library only: corpus, dataset, training
and scoring all read or write them.
"""

import json
from collections.abc import Iterable


def write_label_set(names: Iterable[str]) -> str:
    """The string of a set. A name that comes twice counts once."""
    return json.dumps(sorted(set(names)), ensure_ascii=False, separators=(",", ":"))


def read_label_set(text: str) -> tuple[str, ...]:
    """The names in the string of a set, sorted. Raises ValueError if it is no array of names."""
    try:
        names = json.loads(text)
    except json.JSONDecodeError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ValueError(
            f"label {text[:80]!r} is no JSON array of names, but a document of several labels needs one; map "
            "corpus.sources[].fields.labels instead of fields.label, and run the corpus stage"
        )
    return tuple(sorted(set(names)))
