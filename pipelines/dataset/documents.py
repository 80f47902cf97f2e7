"""What the dataset stage needs from the documents table: kept rows, classes, a tokenizer for the text."""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipelines.dataset.chat_template import ChatFormat, load_chat_format
from pipelines.dataset.examples.table import load_builder
from pipelines.dataset.tokenizer import ChosenTokenizer, load_tokenizer, train_bpe, wrap_trained
from pipelines.dataset.tokenizer_choice import TokenizerChoice
from pipelines.delta import ContractError
from pipelines.pin import Pin
from pipelines.tables import DOCUMENTS

MAX_LABELS = 2_000
"""An evaluation counts a matrix of classes x classes."""
SAMPLE_MARGIN = 1.2
"""A sample by id does not hold its exact share of bytes, so take more than max_bytes and stop there."""


class DocumentSummary(NamedTuple):
    """Counts over the kept documents."""

    num_documents: int
    num_bytes: int
    """UTF-8 bytes of their text."""
    num_trainable_bytes: int
    """Those of train documents that are small enough to train a tokenizer on."""
    labels: tuple[str, ...]
    """Class names, sorted by code point: the class number is the place in this list. Empty if classes were
    not asked for."""


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


def summarize_documents(documents: DataFrame, *, max_bytes: int, with_labels: bool) -> DocumentSummary:
    """Everything that is counted before packing, in one Spark job.

    Raises ContractError, `with_labels`, if some kept documents have no label, or if there are too few or too
    many classes.
    """
    trainable = (F.col("split") == "train") & (F.col("num_bytes") <= max_bytes)
    counts = (
        select_kept(documents)
        .groupBy(F.col("label") if with_labels else F.lit(None).cast("string").alias("label"))
        .agg(
            F.count("*").alias("num_documents"),
            F.sum("num_bytes").alias("num_bytes"),
            F.coalesce(F.sum(F.when(trainable, F.col("num_bytes"))), F.lit(0)).alias("num_trainable_bytes"),
        )
        .limit(MAX_LABELS + 2)  # the classes, one too many, and null
        .collect()
    )
    labels = _require_classes({row["label"]: row["num_documents"] for row in counts}) if with_labels else ()
    num_documents, num_bytes, num_trainable_bytes = (
        sum(row[name] for row in counts) for name in ("num_documents", "num_bytes", "num_trainable_bytes")
    )
    return DocumentSummary(num_documents, num_bytes, num_trainable_bytes, labels)


def _require_classes(counts: dict[str | None, int]) -> tuple[str, ...]:
    names = sorted(name for name in counts if name is not None)
    if counts.get(None):
        raise ContractError(
            f"documents: {counts[None]:,} kept rows have no label, but dataset.task needs one per document; "
            "map corpus.sources[].fields.label"
        )
    if len(names) > MAX_LABELS:
        raise ContractError(
            f"documents: more than {MAX_LABELS:,} different labels; is the label mapped to a free-text field?"
        )
    if len(names) < 2:
        raise ContractError(f"documents: classification needs at least 2 different labels, got {names}")
    return tuple(names)


def choose_tokenizer(
    documents: DataFrame, choice: TokenizerChoice, summary: DocumentSummary, *, task: str
) -> ChosenTokenizer:
    """The tokenizer of `choice.base`, or BPE trained on kept train documents in doc_id order, at most
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

    trained = train_bpe(take_texts(), vocab_size=choice.vocab_size, with_mask=builder.needs_mask_token)
    return wrap_trained(trained)._replace(chat=chat)
