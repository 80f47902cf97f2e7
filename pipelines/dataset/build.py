"""Kept documents to the sequences table: encode, pack, number.

Documents fall into groups by a hash of doc_id; how many groups depends on the data alone, never on the cluster. A group is packed
in doc_id order inside one task, and the groups' sequences are numbered one group after the other, so sequence ids are dense and
the table's digest is the same on any number of executors. Memory of a task: one group (about `group_bytes` of text).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.storagelevel import StorageLevel
from tokenizers import Encoding, Tokenizer

from pipelines.dataset.packing.pack import (
    EncodedDocument,
    PackedSequence,
    concatenate,
    one_per_document,
    token_bytes,
)
from pipelines.dataset.tokenizer import TokenizerChoice, from_json, load_tokenizer, train_bpe
from pipelines.delta import ContractError
from pipelines.tables import SEQUENCES

PackingMethod = Literal["one_per_document", "concatenate"]
PACKERS = {"one_per_document": one_per_document, "concatenate": concatenate}
MAX_LABELS = 2_000
"""An evaluation counts a matrix of classes x classes."""
ENCODE_BATCH, ENCODE_CHARS = 256, 1_000_000
"""Documents and characters encoded in one call: an encoding takes many times the memory of its text."""

DOCUMENT_BYTES = 512
"""What a document takes in a task beside its text, about."""
SAMPLE_MARGIN = 1.2
"""More than a tokenizer is trained on, since a sample by id does not have its share of bytes to the byte."""

SEGMENTS = pa.list_(
    pa.struct(
        [
            ("doc_id", pa.string()),
            ("first_token", pa.int32()),
            ("num_tokens", pa.int32()),
            ("char_start", pa.int32()),
            ("char_end", pa.int32()),
        ]
    )
)
PACKED = pa.schema(
    [
        ("group", pa.int64()),
        ("position", pa.int64()),
        ("split", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("num_tokens", pa.int32()),
        ("target", pa.int32()),
        ("num_targets", pa.int32()),
        ("num_bytes", pa.int32()),
        ("segments", SEGMENTS),
        ("num_cut_tokens", pa.int64()),
    ]
)
PACKED_DDL = (
    "group BIGINT, position BIGINT, split STRING, input_ids ARRAY<INT>, num_tokens INT, target INT, num_targets INT, "
    "num_bytes INT, "
    "segments ARRAY<STRUCT<doc_id: STRING, first_token: INT, num_tokens: INT, char_start: INT, char_end: INT>>, "
    "num_cut_tokens BIGINT"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PackingRules:
    """How documents become sequences."""

    method: PackingMethod = "one_per_document"
    sequence_length: int = 128
    """Most tokens in a sequence."""
    group_bytes: int = 16 * 1024 * 1024
    """Text packed together in one task; bounds a task's memory."""

    def __post_init__(self) -> None:
        if self.sequence_length < 2:
            raise ValueError(f"sequence_length must be at least 2 tokens, got {self.sequence_length}")
        if self.group_bytes < 1:
            raise ValueError(f"group_bytes must be at least 1, got {self.group_bytes}")


def kept(documents: DataFrame, split: str | None = None) -> DataFrame:
    """The documents no rule dropped, of one split or of all."""
    chosen = documents.where(F.col("drop_reason").isNull())
    return chosen if split is None else chosen.where(F.col("split") == split)


def label_names(documents: DataFrame) -> tuple[str, ...]:
    """Class names of the kept documents, sorted by code point: the class number is the place in this list.

    Raises ContractError if some kept documents have a label and others none, or if there are too many classes to hold.
    """
    rows = kept(documents).groupBy("label").count().limit(MAX_LABELS + 1).collect()
    names = sorted(row["label"] for row in rows if row["label"] is not None)
    unlabelled = sum(row["count"] for row in rows if row["label"] is None)
    if unlabelled:
        raise ContractError(
            f"documents: {unlabelled:,} kept rows have no label, which packing one_per_document for "
            "classification needs; map corpus.sources[].fields.label"
        )
    if len(names) > MAX_LABELS:
        raise ContractError(
            f"documents: more than {MAX_LABELS:,} different labels; is the label mapped to a free-text field?"
        )
    if len(names) < 2:
        raise ContractError(f"documents: classification needs at least 2 different labels, got {names}")
    return tuple(names)


def choose_tokenizer(documents: DataFrame, choice: TokenizerChoice) -> Tokenizer:
    """The tokenizer of `choice.base`, or BPE trained on kept train documents in doc_id order, at most `max_bytes` of text."""
    if choice.base is not None:
        return load_tokenizer(choice.base)
    train = (
        kept(documents, "train")
        .where(F.col("num_bytes") <= choice.max_bytes)
        .select("doc_id", "text", "num_bytes")
    )
    total_bytes = train.agg(F.coalesce(F.sum("num_bytes"), F.lit(0))).collect()[0][0]
    if not total_bytes:
        raise ValueError(
            "there is no kept train document of at most dataset.tokenizer.max_bytes to train a tokenizer on; "
            "look at drop_reason and split in the documents table, or name a tokenizer in dataset.tokenizer.base"
        )
    share = SAMPLE_MARGIN * choice.max_bytes / total_bytes
    # Ids are uniform hashes: those below a threshold are a fair sample, and only the sample is sorted and sent here.
    sample = train if share >= 1 else train.where(F.col("doc_id") < f"{int(share * 16**8):08x}")

    def texts() -> Iterator[str]:
        seen = 0
        for row in sample.orderBy("doc_id").toLocalIterator():
            if seen + row["num_bytes"] <= choice.max_bytes:
                seen += row["num_bytes"]
                yield row["text"]

    return train_bpe(texts(), vocab_size=choice.vocab_size)


@contextmanager
def built_sequences(
    documents: DataFrame, tokenizer: Tokenizer, rules: PackingRules, *, labels: tuple[str, ...]
) -> Iterator[DataFrame]:
    """Rows of SEQUENCES and num_cut_tokens from the kept documents, persisted as long as the context lasts.

    Empty `labels` = language modelling.
    """
    if labels and rules.method == "concatenate":
        raise ValueError(
            "packing.method concatenate puts many documents into a sequence, which then has no class; "
            "set dataset.packing.method=one_per_document or dataset.task=language_modelling"
        )
    if rules.method == "concatenate" and not tokenizer.encode("").ids:
        raise ValueError(
            "this tokenizer adds no special token, so packed documents would run into each other; "
            "train one (dataset.tokenizer.base: null) or use packing one_per_document"
        )
    chosen = kept(documents).select("doc_id", "text", "label", "split")
    total = (
        kept(documents)
        .agg(F.count("*").alias("rows"), F.coalesce(F.sum("num_bytes"), F.lit(0)).alias("bytes"))
        .collect()[0]
    )
    num_groups = max(1, -(-(total["bytes"] + total["rows"] * DOCUMENT_BYTES) // rules.group_bytes))
    grouped = chosen.withColumn("group", F.pmod(F.xxhash64("doc_id"), F.lit(num_groups)).cast("long"))
    packed = (
        grouped.groupBy("split", "group")
        .applyInArrow(_group_packer(tokenizer.to_str(), rules, labels), PACKED_DDL)
        .persist(StorageLevel.MEMORY_AND_DISK)
    )
    try:
        numbered = packed.join(F.broadcast(_first_ids(packed)), ["split", "group"])
        sequence_id = (F.col("first_id") + F.col("position")).alias("sequence_id")
        yield numbered.select(sequence_id, *SEQUENCES.schema.names[1:], "num_cut_tokens")
    finally:
        packed.unpersist()


def count_by_split(sequences: DataFrame) -> dict[str, dict[str, int]]:
    """split -> sequences, tokens, cut_tokens."""
    sums = (
        F.count("*").alias("sequences"),
        F.sum("num_tokens").alias("tokens"),
        F.sum("num_cut_tokens").alias("cut_tokens"),
    )
    rows = sequences.groupBy("split").agg(*sums).orderBy("split").collect()
    return {row["split"]: {name: row[name] for name in ("sequences", "tokens", "cut_tokens")} for row in rows}


def in_order(sequences: DataFrame) -> DataFrame:
    """Rows of SEQUENCES as they are written: neighbours in number are neighbours in a file."""
    rows, place = sequences.drop("num_cut_tokens"), ("split", "sequence_id")
    return rows.repartitionByRange(*place).sortWithinPartitions(*place)


def _first_ids(packed: DataFrame) -> DataFrame:
    """split, group, first_id: where the numbers of each group start. One row a group: small."""
    counts = sorted(
        (row["split"], row["group"], row["count"])
        for row in packed.groupBy("split", "group").count().collect()
    )
    first: dict[str, int] = {}
    rows: list[tuple[str, int, int]] = []
    for split, group, count in counts:
        rows.append((split, group, first.get(split, 0)))
        first[split] = first.get(split, 0) + count
    return packed.sparkSession.createDataFrame(rows, "split STRING, group BIGINT, first_id BIGINT")


def _group_packer(tokenizer_json: str, rules: PackingRules, labels: tuple[str, ...]) -> Any:
    numbers = {name: number for number, name in enumerate(labels)}

    def pack_group(key: tuple[pa.Scalar, ...], group: pa.Table) -> pa.Table:
        ordered = group.sort_by("doc_id")
        tokenizer = from_json(tokenizer_json)
        targets = (
            {
                doc_id: numbers.get(label)
                for doc_id, label in zip(
                    ordered["doc_id"].to_pylist(), ordered["label"].to_pylist(), strict=True
                )
            }
            if labels
            else {}
        )
        if rules.method == "one_per_document":
            # The library's truncation keeps the closing special token, as scoring will.
            tokenizer.enable_truncation(max_length=rules.sequence_length)
        packed = PACKERS[rules.method](_encode(tokenizer, ordered), length=rules.sequence_length)
        rows = [
            _row(key, position, sequence, targets.get(sequence.segments[0].doc_id))
            for position, sequence in enumerate(packed)
        ]
        return pa.Table.from_pylist(rows, schema=PACKED)

    return pack_group


def _encode(tokenizer: Tokenizer, documents: pa.Table) -> Iterator[EncodedDocument]:
    for doc_ids, texts in _batches(documents):
        for doc_id, text, encoding in zip(doc_ids, texts, tokenizer.encode_batch(texts), strict=True):
            special = np.asarray(encoding.special_tokens_mask, dtype=bool)
            offsets = np.asarray(encoding.offsets, dtype=np.int32).reshape(-1, 2)
            offsets[special] = -1
            yield EncodedDocument(
                doc_id,
                np.asarray(encoding.ids, dtype=np.int32),
                offsets[:, 0],
                offsets[:, 1],
                token_bytes(text, offsets[:, 1], is_cut=bool(encoding.overflowing)),
                _num_cut(encoding),
            )


def _batches(documents: pa.Table) -> Iterator[tuple[list[str], list[str]]]:
    """(doc_ids, texts) in order, at most ENCODE_BATCH documents or, beyond the first, ENCODE_CHARS characters at once."""
    doc_ids: list[str] = []
    texts: list[str] = []
    num_chars = 0
    for doc_id, text in zip(documents["doc_id"], documents["text"], strict=True):
        content = text.as_py()
        if texts and (len(texts) == ENCODE_BATCH or num_chars + len(content) > ENCODE_CHARS):
            yield doc_ids, texts
            doc_ids, texts, num_chars = [], [], 0
        doc_ids.append(doc_id.as_py())
        texts.append(content)
        num_chars += len(content)
    if texts:
        yield doc_ids, texts


def _num_cut(encoding: Encoding) -> int:
    return sum(len(rest.ids) - sum(rest.special_tokens_mask) for rest in encoding.overflowing)


def _row(
    key: tuple[pa.Scalar, ...], position: int, sequence: PackedSequence, target: int | None
) -> dict[str, Any]:
    split, group = (part.as_py() for part in key)
    num_tokens = len(sequence.input_ids)
    # A language model predicts every token but the first of a sequence; the bytes counted are those of the predicted tokens.
    num_targets, num_bytes = (
        (num_tokens - 1, sequence.num_bytes[1:].sum()) if target is None else (1, sequence.num_bytes.sum())
    )
    return {
        "group": group,
        "position": position,
        "split": split,
        "input_ids": sequence.input_ids,
        "num_tokens": num_tokens,
        "target": target,
        "num_targets": num_targets,
        "num_bytes": int(num_bytes),
        "segments": [segment._asdict() for segment in sequence.segments],
        "num_cut_tokens": sequence.num_cut_tokens,
    }
