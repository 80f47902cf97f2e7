"""What the next build of sequences would do, without Spark: build some groups again, or all of them, and why.

The same questions as in write.py and increment.py, asked with Arrow: which files of the documents are new or
gone, which groups the layout gives, which of them have other documents. Reads four small columns of all
documents, and a few more of the files that changed; holds a number for each file of the sources. It is for a
person who asks (--dry-run), and the build does not use it.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.dataset.earlier import (
    ChangedFiles,
    FullBuildNeededError,
    Inputs,
    find_changed_files,
    find_earlier,
    find_shards,
)
from pipelines.dataset.examples.table import load_builder
from pipelines.dataset.layout import DOCUMENT_BYTES, Layout, Place, find_moved, lay_out_groups, min_own_bytes
from pipelines.dataset.packing.rules import PackingRules
from pipelines.dataset.spark_hash import hash_modulo
from pipelines.dataset.tokenizer_choice import TokenizerChoice
from pipelines.label_sets import read_label_set
from pipelines.pin import Pin, open_log
from pipelines.repeating import repeat_on_hdfs
from pipelines.storage import Folder, locate

MAX_CHANGED, MAX_FILES = 200_000, 1_000_000
"""Documents in files that changed, and files of the sources, up to which groups are counted, in seconds."""
HASHED_CONTENT = ("text", "parts")
"""What content_hash stands for."""

_File = tuple[str, str]
"""(source, file)"""


class _TooManyError(Exception):
    """Counting would take as long as the build."""


class _Scan(NamedTuple):
    """Kept documents of one part of the files."""

    num_bytes: Counter[_File]
    """What layouts are made of."""
    labels: set[str | None]
    rows: Counter[tuple[object, ...]]
    """(source, file, doc_id, what its sequences show) -> documents; empty if it was not asked for."""


class Build(Protocol):
    """What to build, and where: the section `dataset` of the configuration has it."""

    @property
    def task(self) -> str: ...
    @property
    def tokenizer(self) -> TokenizerChoice: ...
    @property
    def packing(self) -> PackingRules: ...
    @property
    def sequences(self) -> str: ...
    @property
    def tokenizers(self) -> str: ...


def forecast_build(inputs: Inputs, build: Build) -> dict[str, str]:
    """One line for a person."""
    sequences, group_bytes = build.sequences, build.packing.group_bytes
    try:
        earlier = _require_earlier(sequences, inputs)
        _require_tokenizer(build.tokenizer, build.tokenizers, earlier)
        files = find_changed_files(earlier, inputs.documents)
        what = f"files of the documents: {len(files.added):,} new, {len(files.removed):,} gone"
        groups = repeat_on_hdfs(
            inputs.documents.path, lambda: _count_groups(files, sequences, earlier, build.task, group_bytes)
        )
    except FullBuildNeededError as reason:
        return {"groups": f"all will be built, because {reason}"}
    except _TooManyError as many:
        return {
            "groups": f"some will be built again; {what}; the build will count the groups, because {many}"
        }
    return {"groups": f"{groups} will be built again; {what}"}


def _require_earlier(path: str, inputs: Inputs) -> Pin:
    """Raises FullBuildNeededError if there are no sequences that could be kept."""
    earlier = find_earlier(path, inputs)
    if earlier is not None:
        return earlier
    log = open_log(path)
    found = None if log is None else log.pin()
    if found is None or "settings" not in found.facts:
        raise FullBuildNeededError("there are no sequences yet")
    if found.facts["settings"] != inputs.settings:
        raise FullBuildNeededError(
            f"task, tokenizer or packing are not those of version {found.version}, or Distributary is newer"
        )
    raise FullBuildNeededError(
        f"version {found.version} was built from another documents table, or a later version of it"
    )


def _require_tokenizer(choice: TokenizerChoice, tokenizers: str, earlier: Pin) -> None:
    """Raises FullBuildNeededError if a tokenizer will be trained."""
    if choice.base is not None:
        return
    if not choice.keep_trained:
        raise FullBuildNeededError("the tokenizer is trained again (dataset.tokenizer.keep_trained is false)")
    if not Folder(tokenizers).exists(f"{earlier.facts['tokenizer']}.json"):
        raise FullBuildNeededError(f"the tokenizer of version {earlier.version} is gone")


def _count_groups(files: ChangedFiles, sequences: str, earlier: Pin, task: str, group_bytes: int) -> str:
    """How many groups of how many. Raises FullBuildNeededError as the build would."""
    builder, log = load_builder(task), open_log(sequences)
    shown = sorted({"content_hash", "split", *builder.columns}.difference(HASHED_CONTENT))
    unchanged = _scan(files.folder, files.unchanged, builder.has_labels)
    added, removed = (
        _scan(files.folder, names, builder.has_labels, shown) for names in (files.added, files.removed)
    )
    labels = _name_classes(unchanged.labels | added.labels, builder.has_label_sets)
    if builder.has_labels and labels != earlier.facts["labels"]:
        raise FullBuildNeededError("there are other classes than before, and classes are numbered")
    if log is None or log.folder is None:
        raise FullBuildNeededError("the sequences table is written by its catalog")
    now, before = unchanged.num_bytes + added.num_bytes, unchanged.num_bytes + removed.num_bytes
    least = min_own_bytes(group_bytes)
    own, own_before = ({file for file, size in of.items() if size >= least} for of in (now, before))
    layout, old = (
        lay_out_groups(_add_up(of, names), group_bytes) for of, names in ((now, own), (before, own_before))
    )
    groups = find_moved(
        old,
        layout,
        shared_before=[file for file in own - own_before if file in before],
        shared_now=[file for file in own_before - own if file in now],
    )
    groups |= _find_groups(added.rows - removed.rows, layout) | _find_groups(removed.rows - added.rows, old)
    find_shards(log, groups, old.groups)
    return f"{len(groups):,} of {len(layout.groups):,}"


def _name_classes(labels: set[str | None], are_sets: bool) -> list[str]:
    names = set(map(str, labels))
    try:
        return sorted({each for label in names for each in read_label_set(label)} if are_sets else names)
    except ValueError:  # the build says what is wrong
        return sorted(names)


def _scan(folder: str, names: Sequence[str], with_labels: bool, shown: Sequence[str] = ()) -> _Scan:
    """`shown`: columns whose values tell documents apart, for each of which memory is needed."""
    columns = ["source", "file", "num_bytes", "drop_reason", *(["label"] if with_labels else [])]
    found = _Scan(Counter(), set(), Counter())
    for batch in _read(folder, names, [*dict.fromkeys([*columns, *(["doc_id", *shown] if shown else [])])]):
        kept = pa.table(batch).filter(pc.is_null(batch["drop_reason"]))
        sums = kept.group_by(["source", "file"]).aggregate([("num_bytes", "sum"), ("num_bytes", "count")])
        for source, file, num_bytes, number in zip(*sums.to_pydict().values(), strict=True):
            found.num_bytes[source, file] += num_bytes + number * DOCUMENT_BYTES
        if len(found.num_bytes) > MAX_FILES:
            raise _TooManyError(f"the sources have more than {MAX_FILES:,} files")
        if with_labels:
            found.labels.update(pc.unique(kept["label"]).to_pylist())
        if shown:
            keys = [kept[name].to_pylist() for name in ("source", "file", "doc_id", *shown)]
            found.rows.update(zip(*keys, strict=True))
            if len(found.rows) > MAX_CHANGED:
                raise _TooManyError(f"more than {MAX_CHANGED:,} documents are in them")
    return found


def _read(folder: str, names: Sequence[str], columns: list[str]) -> Iterator[pa.RecordBatch]:
    files, root = locate(folder)
    for name in names:
        with files.open_input_file(f"{root.rstrip('/')}/{name}") as stream:
            yield from pq.ParquetFile(stream, pre_buffer=True).iter_batches(columns=columns)


def _add_up(sizes: Counter[_File], own: set[_File]) -> dict[Place, int]:
    places: Counter[Place] = Counter()
    for source, file in sizes:
        places[source, file if (source, file) in own else None] += sizes[source, file]
    return dict(places)


def _find_groups(rows: Counter[tuple[object, ...]], layout: Layout) -> set[int]:
    """The groups of documents that only one version has."""
    groups = set()
    for source, file, doc_id, *_ in rows:
        own = layout.places.get((str(source), str(file)))
        numbers = own or layout.places[str(source), None]
        groups.add(numbers[hash_modulo(str(doc_id if own else file), len(numbers))])
    return groups
