"""Documents that a task left out of the sequences: which, why, and how many there may be.

A document is left out if its task finds nothing in it to learn. Their number is what the counts of documents
and of sequences leave; which they are is only asked for then. If most documents are left out, a template or
the names of roles are wrong, and the stage fails instead of ending empty.
"""

from typing import Any, NamedTuple

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines.dataset.build import Counts, find_groups
from pipelines.dataset.documents import DocumentSummary, select_kept
from pipelines.dataset.examples.table import load_builder
from pipelines.dataset.group import PackingJob, find_problems
from pipelines.dataset.increment import select_groups
from pipelines.dataset.layout import Layout
from pipelines.dataset.left_out_limit import LeftOut, count_packed, require_few_left_out
from pipelines.delta import ContractError

MAX_NAMED = 20
"""Documents that are named with their reasons, the first ones by doc_id."""


class Rebuilt(NamedTuple):
    """The groups that an increment packed."""

    layout: Layout
    groups: frozenset[int]
    named_before: tuple[LeftOut, ...]
    """What the commit named that the increment is on top of."""


def check_left_out(
    documents: DataFrame,
    sequences: DataFrame,
    job: PackingJob,
    counts: Counts,
    summary: DocumentSummary,
    max_fraction: float,
    rebuilt: Rebuilt | None = None,
) -> dict[str, Any]:
    """What the commit of the sequences keeps: the number of documents that were left out, and the first ones.

    `documents`, `counts` and `summary` are those of the whole table, `sequences` what was packed now: of all
    groups, or of those `rebuilt`. Raises ValueError, before anything is written, if more than max_fraction of
    the documents were left out, and ContractError if they were lost or repeated.
    """
    num_packed = count_packed(counts, job.task)
    number = summary.num_documents - num_packed
    _require_plausible(number, num_packed, job, is_increment=rebuilt is not None)
    if not job.may_leave_out:
        return {"documents": 0, "first": []}
    named = _name_left_out(documents, sequences, job, rebuilt) if number else []
    require_few_left_out(number, summary.num_documents, named, max_fraction=max_fraction)
    return {"documents": number, "first": [each._asdict() for each in named]}


def _require_plausible(number: int, num_packed: int, job: PackingJob, *, is_increment: bool) -> None:
    remedy = "report it"
    if is_increment:
        remedy += ", and delete or move the sequences table: then all documents are packed"
    # A task without parts learns from every text: one without tokens is a padding token or an end token.
    if number > 0 and not job.may_leave_out:
        raise ContractError(
            f"sequences: {number:,} documents are in no sequence, but task {job.task} leaves none out; "
            f"{remedy}"
        )
    if number < 0:
        raise ContractError(
            f"sequences: they hold {num_packed:,} documents, {-number:,} more than are kept; {remedy}"
        )


def find_left_out(documents: DataFrame, sequences: DataFrame, job: PackingJob) -> list[LeftOut]:
    """The first kept documents that are in no sequence. One shuffle, of ids; the task reads the documents
    found here again.

    Raises ContractError if it finds something to learn in one: then its tokens were lost.
    """
    kept = select_kept(documents)
    ids = sequences.select(F.explode("segments.doc_id").alias("doc_id"))
    missing = kept.select("doc_id").join(ids, "doc_id", "left_anti").orderBy("doc_id").limit(MAX_NAMED)
    names = [row["doc_id"] for row in missing.collect()]
    # By their names: with the columns of the task, the whole text would be shuffled above.
    rows = kept.where(F.col("doc_id").isin(names)).select("doc_id", *load_builder(job.task).columns)
    records = sorted((row.asDict(recursive=True) for row in rows.collect()), key=lambda row: row["doc_id"])
    found = []
    for doc_id, problem in find_problems(records, job):
        if problem is None:
            raise ContractError(
                f"sequences: document {doc_id} is in none of them, but can be learned from; report it"
            )
        found.append(LeftOut(doc_id, problem))
    return found


def _name_left_out(
    documents: DataFrame, sequences: DataFrame, job: PackingJob, rebuilt: Rebuilt | None
) -> list[LeftOut]:
    """The first ones. After an increment, those of groups that were not built are of the documents that were
    named before: there may be more."""
    if rebuilt is None:
        return find_left_out(documents, sequences, job)
    found = _list_untouched(documents, rebuilt)
    if rebuilt.groups:
        some = find_groups(select_groups(documents, rebuilt.layout, rebuilt.groups), rebuilt.layout)
        found += find_left_out(some.where(F.col("group").isin(sorted(rebuilt.groups))), sequences, job)
    return sorted(found)[:MAX_NAMED]


def _list_untouched(documents: DataFrame, rebuilt: Rebuilt) -> list[LeftOut]:
    """Of the documents named before, those that are kept, in groups that were not built."""
    named = {each.doc_id: each for each in rebuilt.named_before}
    if not named:
        return []
    there = find_groups(select_kept(documents).where(F.col("doc_id").isin(sorted(named))), rebuilt.layout)
    return [
        named[row["doc_id"]]
        for row in there.select("doc_id", "group").collect()
        if row["group"] not in rebuilt.groups
    ]
