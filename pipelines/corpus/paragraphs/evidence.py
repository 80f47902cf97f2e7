"""Positions -> the table of removed paragraphs, and its facts, which account for every character."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines.contract import ChangedMeanwhileError
from pipelines.corpus.readers.slices import Edits
from pipelines.tables import REMOVED_PARAGRAPHS


def list_removed(documents: DataFrame) -> DataFrame:
    """Rows of REMOVED_PARAGRAPHS. Needs doc_id, source, file, offset and removed."""
    rows = documents.select("doc_id", "source", "file", "offset", F.explode("removed").alias("one"))
    return rows.select("doc_id", "source", "file", "offset", "one.*").select(*REMOVED_PARAGRAPHS.schema.names)


def count_removed(documents: DataFrame, edits: Edits) -> dict[str, dict[str, int]]:
    """By source that is compared: documents edited, paragraphs removed, and the characters of all documents
    before (read), of removed paragraphs, of the white space that went with them, and left (kept). Needs
    source, num_chars, whole_chars and removed.

    Raises ChangedMeanwhileError if the texts were not as long when paragraphs were compared.
    """
    removed_chars = F.aggregate(
        F.transform("removed", lambda one: one.num_chars.cast("bigint")),
        F.lit(0).cast("bigint"),
        lambda total, chars: total + chars,
    )
    is_edited = F.col("removed").isNotNull()
    rows = (
        documents.where(F.col("source").isin(*edits.num_chars))
        .groupBy("source")
        .agg(
            F.count("removed").alias("documents"),
            F.sum(F.when(is_edited, F.size("removed"))).alias("paragraphs"),
            F.sum(F.coalesce("whole_chars", "num_chars")).alias("read_chars"),
            F.sum(removed_chars).alias("removed_chars"),
            F.sum(F.when(is_edited, F.col("whole_chars") - F.col("num_chars") - removed_chars)).alias(
                "white_space"
            ),
            F.sum("num_chars").alias("kept_chars"),
        )
    )
    found = {
        row.source: {name: row[name] or 0 for name in row.asDict() if name != "source"}
        for row in rows.collect()
    }
    for name, chars in edits.num_chars.items():
        if (again := found.get(name, {}).get("read_chars", 0)) != chars:
            raise ChangedMeanwhileError(
                f"corpus: source {name!r} had {chars:,} characters when its paragraphs were compared, but "
                f"{again:,} when they were removed: files changed while they were read; run the stage again "
                "when no other program writes to them"
            )
    return dict(sorted(found.items()))
