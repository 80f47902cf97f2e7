"""Rows of quarantine, and how many there may be: if most records of a source are broken, its mapping is
wrong, and the stage fails instead of ending empty."""

from collections.abc import Mapping
from typing import Any

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

_NUM_REASONS = 3
_MAPPING = "correct the mapping of fields in corpus.sources"
_REMEDIES = {
    "text": _MAPPING,
    "label": _MAPPING,
    "labels": "correct the mapping of fields, or label_separator, in corpus.sources",
    "part": _MAPPING,
    "messages": _MAPPING,
    "metadata": _MAPPING,
    "schema": _MAPPING,
    "header": "correct the mapping of fields or the options of the format in corpus.sources",
    "key": "map a field that every record has, or remove fields.key",
    "duplicate key": "map a field that is unique in the source, or remove fields.key",
    "split": "map a field that says train, validation or test, or remove fields.split",
    "number of fields": "correct the options of the format, such as the delimiter, or the files",
    "quote or line break": "correct the delimiter or the files; text without quoting is format: tsv",
    "open quote": "correct the files; text without quoting is format: tsv",
    "number": "write null instead of nan and infinity",
    "nested value": "correct the files",
    "lone surrogate": "correct the escapes in the files",
    "invalid JSON": "choose the right format, or write one JSON object per line",
    "not an object": "write one JSON object per line",
    "invalid UTF-8": "convert the files to UTF-8",
    "NUL": "convert the files to UTF-8",
    "too long": "raise max_record_bytes of the source",
    "too many values": "store arrays of numbers, such as tokens, in Parquet",
    "gzip": "fetch the files again",
    "bz2": "fetch the files again",
    "xz": "fetch the files again, or compress them with a smaller window (at most 128 MiB)",
    "zstd": "fetch the files again, or compress them with a smaller window (at most 128 MiB)",
    "parquet": "fetch the files again, or choose the right format",
    "warc": "fetch the files again; compress each record as a gzip member of its own",
    "http": "raise max_quarantined_fraction if the crawl has many pages that are not there",
    "content type": "raise max_quarantined_fraction if the crawl has many other files than pages",
    "html": "choose the right format",
    "tombstone": "raise max_quarantined_fraction if the topic has many deletions",
    "pdf": "fetch the files again, or remove their passwords",
    "encoding": "set options.encoding of the source, or convert the files to UTF-8",
}
"""By the kind of the reason. A test checks it against the kinds that the readers give."""


DAMAGED_FILE = ("gzip", "bz2", "xz", "zstd", "parquet")
"""Kinds of reasons that stand for a damaged file or part of one, with any number of lost records."""


def require_few_quarantined(
    facts: Mapping[str, Any],
    quarantine: DataFrame,
    *,
    max_quarantined_fraction: float,
    max_damaged_fraction: float,
    num_files: Mapping[str, int],
) -> None:
    """Raises ValueError if more than max_quarantined_fraction of the records of one source is in quarantine,
    or more than max_damaged_fraction of its files are damaged (`num_files` by source).

    One row stands for a damaged part, whatever number of records it held, so records alone do not show it.

    The message names the most frequent reasons and their remedies. Call it after the quarantine table is
    written, so that the records can be looked up, and before the documents table: the next run then finds no
    documents made from these files and tries again. `facts` are those of `Corpus`. A source without
    records has nothing in quarantine.
    """
    faulty = {
        name: counts
        for name, counts in facts["sources"].items()
        if counts["quarantined"] > max_quarantined_fraction * counts["records"]
        or counts["damaged"] > max_damaged_fraction * num_files[name]
    }
    if not faulty:
        return
    found = _find_reasons(quarantine, list(faulty))
    described = [
        f"source {name!r}: {counts['quarantined']:,} of {counts['records']:,} records, {counts['damaged']:,} "
        f"damaged of {num_files[name]:,} files; {found[name]}"
        for name, counts in faulty.items()
    ]
    raise ValueError(
        f"corpus: quarantine exceeds corpus.max_quarantined_fraction = {max_quarantined_fraction:g} "
        f"(records) or corpus.max_damaged_fraction = {max_damaged_fraction:g} (files) of a source, and "
        f"documents were not written. {'. '.join(described)}. "
        "The quarantine table has every record with its reason; to accept the loss, raise the fraction"
    )


def _find_reasons(quarantine: DataFrame, sources: list[str]) -> dict[str, str]:
    """The most frequent reasons of each source, each with its count, an example and the remedy."""
    kind = F.substring_index("reason", ":", 1)
    groups = (
        quarantine.where(F.col("source").isin(sources))
        .groupBy("source", kind.alias("kind"))
        .agg(
            F.count("*").alias("num_records"), F.min_by("reason", F.struct("file", "offset")).alias("example")
        )
        .collect()
    )
    described = {}
    for source in sources:
        own = [row for row in groups if row.source == source]
        own.sort(key=lambda row: (-row.num_records, row.kind))
        described[source] = "; ".join(
            f"{row.num_records:,} x {row.example!r}: {choose_remedy(row.kind)}" for row in own[:_NUM_REASONS]
        )
    return described


def choose_remedy(kind: str) -> str:
    """What to do about a kind of reason. Parts and metadata add a name to the kind, such as 'part query'."""
    return _REMEDIES.get(kind) or _REMEDIES.get(kind.partition(" ")[0]) or "correct the source or its files"


def number_lines(rows: DataFrame, positions: DataFrame) -> DataFrame:
    """The rows with `line` counted from the start of the file instead of the slice.

    The rows of the slices carry their numbers of lines, so nothing is read for it.
    """
    before = Window.partitionBy("source", "file").orderBy("offset").rowsBetween(Window.unboundedPreceding, -1)
    slices = positions.where("num_lines IS NOT NULL").select(
        "slice", F.coalesce(F.sum("num_lines").over(before), F.lit(0)).alias("lines_before")
    )
    numbered = rows.join(slices, "slice", "left")
    return numbered.withColumn("line", F.col("line") + F.col("lines_before")).drop("lines_before")
