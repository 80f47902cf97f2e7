"""K folds of the train split of a pinned sequences table. Arrow and NumPy only; no second table.

A document is in the fold that a hash of its doc_id and the seed names, so a new document moves no other one.
Documents that share a sequence, or are chained by sequences that share documents, go to one fold together:
that of the smallest doc_id among them. So no document is in two folds, and no sequence mixes two. Folds are
of about equal size, not exactly.

Cost: one pass over two columns; 40 bytes of memory for each document of each sequence.
"""

import io
from collections.abc import Iterator
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.corpus.neardup.graph import find_components
from pipelines.dataset.pinned_files import open_pinned, require_plain_files
from pipelines.repeating import repeat_on_hdfs
from pipelines.storage import Folder

BATCH_ROWS = 4096


class RowDocuments(NamedTuple):
    """The documents of some sequences, one line for each document of each sequence."""

    sequence_ids: np.ndarray
    """(num_lines,) int64"""
    doc_ids: pa.Array
    """(num_lines,) large strings: the offsets of others end at 2 GiB, which 67 million ids have."""


def assign_folds(
    path: str, *, table_id: str, version: int, num_folds: int, seed: int, split: str = "train"
) -> np.ndarray:
    """(num_rows,) uint8: the fold of each sequence of `split`, from 0, in the order of sequence_id.

    Raises ValueError if a fold has no sequence, with the number of groups that documents form.
    """
    found = repeat_on_hdfs(path, lambda: _read_documents(path, table_id, version, split))
    folds = fold_rows(found, num_folds=num_folds, seed=seed)
    empty = sorted(set(range(num_folds)) - set(np.unique(folds).tolist()))
    if empty:
        raise ValueError(
            f"finetune.search.num_folds is {num_folds}, but fold {empty[0]} has no sequence: split {split} "
            f"of {path} has {len(folds):,} sequences, and documents that share one cannot be parted; lower "
            "num_folds, or set dataset.packing.method=one_per_document"
        )
    return folds


def fold_rows(found: RowDocuments, *, num_folds: int, seed: int) -> np.ndarray:
    """(num_rows,) uint8: the fold of each sequence, in the order of sequence_id."""
    order = np.argsort(found.sequence_ids, kind="stable")
    ids, first = np.unique(found.sequence_ids[order], return_index=True)  # (num_rows,) each
    names = found.doc_ids.take(pa.array(order))  # (num_lines,) in the order of the rows
    leaders = names.take(pa.array(first))  # (num_rows,)
    row_of_line = np.repeat(np.arange(len(ids)), np.diff(first, append=len(order)))
    leader_of_line = leaders.take(pa.array(row_of_line))
    differs = pc.not_equal(leader_of_line, names)
    if pc.any(differs).as_py():
        ends = (leader_of_line.filter(differs), names.filter(differs))
        edges = pa.table({"a": pc.min_element_wise(*ends), "b": pc.max_element_wise(*ends)})
        groups = find_components(edges)
        place = pc.index_in(leaders, groups["member"].combine_chunks())
        joined = groups["cluster"].combine_chunks().take(place)  # null where a document is alone
        leaders = pc.coalesce(joined, leaders)
    folds = {name: find_fold(name, num_folds=num_folds, seed=seed) for name in pc.unique(leaders).to_pylist()}
    return np.array([folds[name] for name in leaders.to_pylist()], dtype=np.uint8)


def find_fold(doc_id: str, *, num_folds: int, seed: int) -> int:
    """The fold of a document, from 0."""
    digest = blake2b(doc_id.encode(), digest_size=8, key=seed.to_bytes(8, "big")).digest()
    return int.from_bytes(digest, "big") % num_folds


def write_folds(folder: Folder, name: str, folds: np.ndarray) -> None:
    """Keep the folds as a file that ranks read."""
    content = io.BytesIO()
    np.save(content, folds, allow_pickle=False)
    folder.write(name, content.getvalue())


def read_folds(file: str, num_rows: int) -> np.ndarray:
    """(num_rows,) uint8. Raises ValueError if the file has another number of rows."""
    folder, _, name = file.rpartition("/")
    folds = np.load(io.BytesIO(Folder(folder).read(name)), allow_pickle=False)
    if folds.shape != (num_rows,):
        raise ValueError(
            f"{file} has folds of {folds.size:,} sequences, and the split has {num_rows:,}; delete it and "
            "run the search again"
        )
    return folds


def _read_documents(path: str, table_id: str, version: int, split: str) -> RowDocuments:
    pinned = open_pinned(path, table_id=table_id, version=version)
    require_plain_files(path, pinned)
    ids, names = [np.empty(0, np.int64)], [pa.array([], pa.large_string())]
    for batch in _read_batches(pinned.to_pyarrow_dataset(), split):
        counts = pc.list_value_length(batch["segments"]).to_numpy()
        ids.append(np.repeat(batch["sequence_id"].to_numpy(), counts))
        names.append(pc.struct_field(batch["segments"].flatten(), "doc_id").cast(pa.large_string()))
    return RowDocuments(np.concatenate(ids), pa.concat_arrays(names))


def _read_batches(files: "pa.dataset.Dataset", split: str) -> Iterator[pa.RecordBatch]:
    columns = ["sequence_id", "segments"]
    yield from files.to_batches(columns=columns, filter=pc.field("split") == split, batch_size=BATCH_ROWS)
