"""What the dataset stage needs from the documents table: kept rows, classes, a tokenizer for the text."""

from collections.abc import Iterator
from dataclasses import replace
from functools import reduce
from typing import NamedTuple

from pyspark.sql import Column, DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from pipelines.dataset.chat_format import ChatFormat
from pipelines.dataset.chat_template import load_chat_format
from pipelines.dataset.examples.table import load_builder
from pipelines.dataset.labels import list_labels
from pipelines.dataset.layout import DOCUMENT_BYTES, Place, min_own_bytes
from pipelines.dataset.tokenizer import TRAINERS, ChosenTokenizer, load_tokenizer, wrap_trained
from pipelines.dataset.tokenizer_choice import TokenizerChoice
from pipelines.pin import Pin
from pipelines.tables import DOCUMENTS

SAMPLE_MARGIN = 1.2
"""A sample by id does not hold its exact share of bytes, so take more than max_bytes and stop there."""


class Before(NamedTuple):
    """Rows of the documents table in the files of two versions: those from which sequences were built, and
    those of now."""

    unchanged: DataFrame
    """In files of both."""
    removed: DataFrame | None
    """None = no file has gone."""
    added: DataFrame


class DocumentSummary(NamedTuple):
    """Counts over the kept documents."""

    num_documents: int
    num_trainable_bytes: int
    """UTF-8 bytes of train documents that are small enough to train a tokenizer on."""
    labels: tuple[str, ...]
    """Class names, sorted by code point: the class number is the place in this list. Empty if classes were
    not asked for."""
    place_bytes: dict[Place, int]
    """Bytes of the text at each place, and DOCUMENT_BYTES a document: what groups are laid out by."""
    before: "PlacesBefore | None" = None
    """Of the version that sequences were built from; None = not asked for."""


class PlacesBefore(NamedTuple):
    """Places of an earlier version of the documents, and what moved between places without being changed."""

    place_bytes: dict[Place, int]
    shared_before: list[tuple[str, str]]
    """(source, file) of those with groups of their own now that shared groups before."""
    shared_now: list[tuple[str, str]]
    """The reverse."""


def read_documents(spark: SparkSession, pinned: Pin) -> tuple[DataFrame, Pin]:
    """The rows that a pin names, and the pin with their digest.

    If another program changed the table last, the digest of the present rows is computed here.
    """
    documents = DOCUMENTS.read(spark, pinned.path, pinned.version)
    if pinned.digest:
        return documents, pinned
    digest, num_rows = DOCUMENTS.digest(documents)
    return documents, replace(pinned, digest=digest, num_rows=num_rows)


def select_kept(documents: DataFrame, split: str | None = None) -> DataFrame:
    """The documents that no rule dropped, of one split or of all."""
    kept = documents.where(F.col("drop_reason").isNull())
    return kept if split is None else kept.where(F.col("split") == split)


def summarize_documents(
    documents: DataFrame,
    *,
    max_bytes: int,
    group_bytes: int,
    with_labels: bool,
    with_label_sets: bool = False,
    before: Before | None = None,
) -> DocumentSummary:
    """Everything that is counted before packing: one Spark job over small columns, `with_labels` two.
    `with_label_sets`: these labels are sets.

    On the driver: 100 bytes for each file with groups of its own, however many files there are. Raises
    ContractError, `with_labels`, if some kept documents have no label, or if there are too few or too many
    classes.
    """
    kept = select_kept(documents)
    counted = _count_by_file(kept if before is None else _mark_versions(before), max_bytes)
    own, own_before = (
        F.when(F.col(name) >= min_own_bytes(group_bytes), F.col("file"))
        for name in ("now_bytes", "old_bytes")
    )
    sums = ("num_documents", "trainable_bytes", "now_bytes", "old_bytes")
    found = (
        counted.groupBy("source", own.alias("file"), own_before.alias("file_before"))
        .agg(*(F.sum(name).alias(name) for name in sums))
        .collect()
    )
    return DocumentSummary(
        num_documents=sum(row["num_documents"] for row in found),
        num_trainable_bytes=sum(row["trainable_bytes"] for row in found),
        labels=list_labels(kept, are_sets=with_label_sets) if with_labels else (),
        place_bytes=_add_up(found, "file", "now_bytes"),
        before=None if before is None else _describe_before(found),
    )


def _mark_versions(before: Before) -> DataFrame:
    """Kept documents of both versions, those of unchanged files once: is_now, is_old."""
    marked = [
        select_kept(rows)
        .select("source", "file", "split", "num_bytes")
        .withColumns({"is_now": F.lit(is_now), "is_old": F.lit(is_old)})
        for rows, is_now, is_old in (
            (before.unchanged, True, True),
            (before.added, True, False),
            (before.removed, False, True),
        )
        if rows is not None
    ]
    return reduce(lambda one, other: one.unionByName(other), marked)


def _count_by_file(kept: DataFrame, max_bytes: int) -> DataFrame:
    """source, file, and the sums of its documents now and before."""
    if "is_now" not in kept.columns:
        kept = kept.withColumns({"is_now": F.lit(True), "is_old": F.lit(False)})
    trainable = F.col("is_now") & (F.col("split") == "train") & (F.col("num_bytes") <= max_bytes)
    size = F.col("num_bytes") + F.lit(DOCUMENT_BYTES).cast("long")

    def add_up(condition: Column, value: Column) -> Column:
        return F.sum(F.when(condition, value).otherwise(F.lit(0)).cast("long"))

    return kept.groupBy("source", "file").agg(
        add_up(F.col("is_now"), F.lit(1)).alias("num_documents"),
        add_up(trainable, F.col("num_bytes")).alias("trainable_bytes"),
        add_up(F.col("is_now"), size).alias("now_bytes"),
        add_up(F.col("is_old"), size).alias("old_bytes"),
    )


def _add_up(found: list[Row], file: str, size: str) -> dict[Place, int]:
    totals: dict[Place, int] = {}
    for row in found:
        if row[size]:
            place = (row["source"], row[file])
            totals[place] = totals.get(place, 0) + row[size]
    return totals


def _describe_before(found: list[Row]) -> PlacesBefore:
    return PlacesBefore(
        place_bytes=_add_up(found, "file_before", "old_bytes"),
        shared_before=[
            (row["source"], row["file"])
            for row in found
            if row["file"] is not None and row["file_before"] is None and row["old_bytes"]
        ],
        shared_now=[
            (row["source"], row["file_before"])
            for row in found
            if row["file"] is None and row["file_before"] is not None and row["now_bytes"]
        ],
    )


def choose_tokenizer(
    documents: DataFrame, choice: TokenizerChoice, summary: DocumentSummary, *, task: str
) -> ChosenTokenizer:
    """The tokenizer of `choice.base`, or one trained on kept train documents in doc_id order, at most
    `max_bytes` of text; with the chat template if the task has conversations, the mask token if it masks."""
    builder = load_builder(task)
    chat = load_chat_format(choice.chat, choice.base) if builder.is_chat else ChatFormat()
    if choice.base is not None:
        return load_tokenizer(choice.base, with_mask=builder.needs_mask_token)._replace(chat=chat)
    if not summary.num_trainable_bytes:
        raise ValueError(
            "there is no kept train document of at most dataset.tokenizer.max_bytes to train a tokenizer on; "
            "look at drop_reason and split in the documents table, or name a tokenizer in "
            "dataset.tokenizer.base"
        )
    sample = (
        select_kept(documents, "train")
        .where(F.col("num_bytes") <= choice.max_bytes)
        .select("doc_id", "text", "num_bytes")
    )
    share = SAMPLE_MARGIN * choice.max_bytes / summary.num_trainable_bytes
    if share < 1:
        # Ids are uniform hashes: those below a threshold are a fair sample.
        sample = sample.where(F.col("doc_id") < f"{int(share * 16**8):08x}")
    # About max_bytes: small enough to sort in one task, which saves the job that a distributed sort samples
    # its ranges with.
    ordered = sample.repartition(1).sortWithinPartitions("doc_id")

    def take_texts() -> Iterator[str]:
        num_bytes = 0
        for row in ordered.toLocalIterator():
            if num_bytes + row["num_bytes"] <= choice.max_bytes:
                num_bytes += row["num_bytes"]
                yield row["text"]

    train, size = TRAINERS[choice.model], choice.vocab_size
    trained = train(take_texts(), vocab_size=size, with_mask=builder.needs_mask_token)
    return wrap_trained(trained)._replace(chat=chat)
