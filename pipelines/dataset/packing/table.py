"""The table of packing methods. A new method is a file beside this one and a line here (and in the tasks that
it fits)."""

from pipelines.dataset.packing.concatenate import concatenate
from pipelines.dataset.packing.one_per_document import pack_one_per_document
from pipelines.dataset.packing.packed import Packer

PACKERS: dict[str, Packer] = {"one_per_document": pack_one_per_document, "concatenate": concatenate}
