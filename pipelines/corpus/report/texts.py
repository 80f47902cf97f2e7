"""The texts of a report: examples of what each reason dropped, and the sample whose tokens are counted.

One Spark job reads texts, once for both. A hash of doc_id chooses, with a limit that follows from the counts:
equal tables give equal choices, as good as random, without a sort or a shuffle. Parquet cannot skip the other
texts, because rows are in no order of doc_id. About 40 texts per reason reach the driver, and those of
`tokens.choose_cells`.
"""

from collections.abc import Mapping
from typing import NamedTuple

import pyarrow as pa
from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from pipelines.corpus.report.content import EXAMPLE_CHARS, Amount, Example, show_url
from pipelines.corpus.report.tokens import TEXT_CHARS, Cell, SampledText, choose_cells

NUM_EXAMPLES = 3
_CANDIDATES = 40
"""Expected rows per reason from which the examples are taken: fewer than 3 come with p = 1e-14."""


class ChosenTexts(NamedTuple):
    """What is shown, and what is counted."""

    examples: dict[str, list[Example]]
    """By drop_reason: NUM_EXAMPLES, fewer if there are fewer."""
    sample: list[SampledText]


def choose_texts(documents: DataFrame, outcomes: Mapping[Cell, Amount], *, with_sample: bool) -> ChosenTexts:
    """`outcomes`: those of `documents`. Without a sample, kept documents are not looked at."""
    dropped: dict[str, int] = {}
    for (_, reason), amount in outcomes.items():
        if reason is not None:
            dropped[reason] = dropped.get(reason, 0) + amount.documents
    cells = choose_cells(outcomes) if with_sample else {}
    limits = [
        (
            source,
            reason,
            None if reason is None else limit_place(_CANDIDATES, dropped[reason]),
            limit_place(cells[source, reason], amount.documents) if (source, reason) in cells else None,
        )
        for (source, reason), amount in outcomes.items()
    ]
    rows = _read_rows(documents, [each for each in limits if each[2:] != (None, None)])
    chosen = ChosenTexts({}, [])
    for row in sorted(rows, key=lambda row: (row.place, row.doc_id)):
        if (
            row.is_example
            and len(of_reason := chosen.examples.setdefault(row.drop_reason, [])) < NUM_EXAMPLES
        ):
            of_reason.append(_make_example(row))
        if row.is_sample:
            cell = (row.source, row.drop_reason)
            chosen.sample.append(SampledText(cell, row.num_chars, row.text))
    return chosen


def limit_place(expected: int, num_documents: int) -> int:
    """The largest hash of as many documents as are expected, or of all if there are fewer."""
    return 2**63 - 1 if num_documents <= expected else -(2**63) + 2**64 * expected // num_documents


def _read_rows(
    documents: DataFrame, limits: list[tuple[str, str | None, int | None, int | None]]
) -> list[Row]:
    """The documents at or below the limits of their source and reason."""
    if not limits:
        return []
    place = F.xxhash64("doc_id")
    kinds = {"of": pa.string(), "why": pa.string(), "example_limit": pa.int64(), "sample_limit": pa.int64()}
    columns = zip(*limits, strict=True)
    table = pa.table(
        [pa.array(own, kind) for own, kind in zip(columns, kinds.values(), strict=True)], [*kinds]
    )
    # From Arrow: a local relation of sources x reasons rows. It is broadcast, so texts are not shuffled.
    bounds = F.broadcast(documents.sparkSession.createDataFrame(table))
    is_cell = (F.col("source") == F.col("of")) & F.col("drop_reason").eqNullSafe(F.col("why"))
    is_example, is_sample = (
        F.coalesce(place <= F.col(f"{kind}_limit"), F.lit(False)) for kind in ("example", "sample")
    )
    rows = documents.join(bounds, is_cell).where(is_example | is_sample)
    num_chars = F.when(is_sample, F.lit(TEXT_CHARS)).otherwise(F.lit(EXAMPLE_CHARS))
    return rows.select(
        place.alias("place"),
        is_example.alias("is_example"),
        is_sample.alias("is_sample"),
        "doc_id",
        "source",
        "file",
        "offset",
        "num_chars",
        "duplicate_of",
        "drop_reason",
        F.substring("text", F.lit(1), num_chars).alias("text"),
        F.when(is_example, F.col("metadata")["url"]).alias("url"),
    ).collect()


def _make_example(row: Row) -> Example:
    return Example(
        doc_id=row.doc_id,
        source=row.source,
        file=row.file,
        offset=row.offset,
        num_chars=row.num_chars,
        text=row.text[:EXAMPLE_CHARS],
        url=show_url(row.url),
        duplicate_of=row.duplicate_of,
    )
