"""Documents of equal content, among new documents and earlier ones. On the driver if all of them are few: the
only query is then the one that reads the new files."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from pipelines.corpus.dedup import find_few_survivors, find_survivors, label_copies, label_few_copies
from pipelines.corpus.few import bring_rows, send_rows, settle_rows
from pipelines.corpus.increment import BROADCAST_ROWS, HELD, Earlier, add_rows, select_contents
from pipelines.corpus.lookup import find_rows
from pipelines.spark import persisted

_COMPARED = pa.schema(
    [HELD.field(name) for name in ("doc_id", "source", "split", "num_chars", "content_hash")]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Copies:
    """What is known of documents of equal content."""

    documents: DataFrame
    """The new ones, as they were given."""
    survivors: DataFrame
    """Rows of `dedup.find_survivors`."""
    labelled: DataFrame | None
    """Rows of `dedup.label_copies`, of the new documents; None = there are no survivors."""
    earlier: DataFrame | None
    """Earlier rows that have a content of the documents; None = there are no earlier documents."""
    has_earlier: bool = True
    """False: `earlier` has no rows."""


def find_copies(
    stack: ExitStack, documents: DataFrame, earlier: Earlier | None, protected: Sequence[str]
) -> Copies:
    """The copies among the documents and the earlier ones. The rows live as long as the stack."""
    if earlier is not None and earlier.held is not None and (rows := bring_rows(documents)) is not None:
        return _find_few(documents, rows, earlier, earlier.held, protected)
    others = find_earlier(stack, earlier, select_contents(documents))
    survivors, found = count_groups(stack, earlier, find_survivors(add_rows(documents, others), protected))
    copies = stack.enter_context(persisted(label_copies(documents, survivors))) if found else None
    return Copies(documents=documents, survivors=survivors, labelled=copies, earlier=others)


def _find_few(
    documents: DataFrame, rows: pa.Table, earlier: Earlier, held: pa.Table, protected: Sequence[str]
) -> Copies:
    spark, schema, has_text = documents.sparkSession, documents.schema, pc.greater(rows["num_chars"], 0)
    others = find_rows(held, "content_hash", pc.unique(rows.filter(has_text)["content_hash"]))
    both = [each.select(_COMPARED.names).cast(_COMPARED) for each in (rows, others)]
    survivors = find_few_survivors(pa.concat_tables(both), protected)
    copies = None
    if survivors.num_rows:
        with_survivor = StructType([*schema, StructField("duplicate_of", StringType())])
        copies = send_rows(spark, label_few_copies(rows, survivors), with_survivor)
    return Copies(
        documents=send_rows(spark, rows, schema),
        survivors=F.broadcast(send_rows(spark, survivors, "content_hash STRING, survivor_id STRING")),
        labelled=copies,
        earlier=send_rows(spark, others, earlier.read_rows().schema),
        has_earlier=others.num_rows > 0,
    )


def count_groups(stack: ExitStack, earlier: Earlier | None, groups: DataFrame) -> tuple[DataFrame, int]:
    """The rows, ready to be joined, and their number. The number is not known to Spark's planner."""
    if earlier is not None and (few := settle_rows(groups)):
        return F.broadcast(few[0]), few[1]
    held = stack.enter_context(persisted(groups))
    num_rows = held.count()
    return (F.broadcast(held) if num_rows <= BROADCAST_ROWS else held), num_rows


def find_earlier(stack: ExitStack, earlier: Earlier | None, values: DataFrame) -> DataFrame | None:
    """The earlier documents that have one of the values; None if there are no earlier documents."""
    if earlier is None:
        return None
    if (held := earlier.find_few(values)) is not None:
        return held
    # With rows in memory, it is the values that are not few.
    found, _ = count_groups(stack, earlier if earlier.held is None else None, values)
    rows = earlier.find_rows(found)
    few = settle_rows(rows)
    return few[0] if few else stack.enter_context(persisted(rows))
