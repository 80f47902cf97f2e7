"""Short keys of documents, by which the files of a large table are searched for one document."""

from collections.abc import Sequence

import numpy as np

KEY_DIGITS = 8


def make_doc_keys(doc_ids: Sequence[str]) -> np.ndarray:
    """(num_doc_ids,) int32: the last 8 hex digits of each, signed. A doc_id is a hash, so two documents of 65
    million share a key with p = 1.5 %: who finds a key compares the doc_id, too."""
    return np.array([int(doc_id[-KEY_DIGITS:], 16) for doc_id in doc_ids], dtype=np.uint32).view(np.int32)
