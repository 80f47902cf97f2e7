"""The table of packing methods. A new method is a file beside this one and a line here (and in the tasks that
it fits).

The files are imported when a method is asked for: the configuration needs only the names, without NumPy.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.dataset.packing.packed import Packer


def _load_one_per_document() -> "Packer":
    from pipelines.dataset.packing.one_per_document import pack_one_per_document

    return pack_one_per_document


def _load_concatenate() -> "Packer":
    from pipelines.dataset.packing.concatenate import concatenate

    return concatenate


def _load_best_fit() -> "Packer":
    from pipelines.dataset.packing.best_fit import pack_best_fit

    return pack_best_fit


PACKERS: "dict[str, Callable[[], Packer]]" = {
    "one_per_document": _load_one_per_document,
    "concatenate": _load_concatenate,
    "best_fit": _load_best_fit,
}


def load_packer(method: str) -> "Packer":
    """The packing method of this name."""
    return PACKERS[method]()
