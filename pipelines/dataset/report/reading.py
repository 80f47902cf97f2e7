"""A table of sequences, and the documents it was made from, as the `Content` of a report."""

from typing import Any

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession

from pipelines.dataset.documents import select_kept
from pipelines.dataset.report.content import Content
from pipelines.dataset.report.counting import count_documents, count_rows
from pipelines.dataset.report.decoding import PieceDecoder
from pipelines.dataset.report.samples import choose_samples
from pipelines.dataset.tokenizer import read_tokenizer
from pipelines.pin import Pin
from pipelines.report import TableVersion, find_version
from pipelines.tables import DOCUMENTS, SEQUENCES


def read_content(spark: SparkSession, sequences: str, tokenizers: str, title: str) -> Content:
    """Counts the newest sequences and decodes some: four Spark jobs.

    Raises ValueError if the table is not one that the stage dataset has written, and what `read_tokenizer`
    raises.
    """
    found = find_version(sequences)
    if found is None or not found[0].fingerprint:
        raise ValueError(f"{sequences} is not a table that dataset has written; run: distributary dataset")
    pinned, about = found
    facts = pinned.facts
    rows = SEQUENCES.read(spark, pinned.path, pinned.version)
    decoder = PieceDecoder(read_tokenizer(tokenizers, facts["tokenizer"]))
    counted = count_rows(rows, facts["sequence_length"])
    documents = _find_documents(spark, Pin(**facts["documents"]))
    num_rows: dict[str, int] = {}
    for (split, _), number in counted.fills.items():
        num_rows[split] = num_rows.get(split, 0) + number
    return Content(
        title=title,
        tables=[about, *([documents[0]] if documents else [])],
        task=facts["task"],
        sequence_length=facts["sequence_length"],
        num_labels=len(facts["labels"]),
        tokenizer=facts["tokenizer"],
        cut_tokens=_list_counts(facts, "cut_tokens"),
        continued=_list_counts(facts, "continued"),
        lengths=counted.lengths,
        fills=counted.fills,
        documents=count_documents(rows, documents[1] if documents else None),
        samples=choose_samples(rows, num_rows, decoder, facts["labels"]),
    )


def _list_counts(facts: dict[str, Any], name: str) -> dict[str, int]:
    return {split: int(counts[name]) for split, counts in facts["splits"].items()}


def _find_documents(spark: SparkSession, pinned: Pin) -> tuple[TableVersion, DataFrame] | None:
    """The documents that the sequences were made from, at their version; None if they are gone."""
    newest = find_version(pinned.path)
    if newest is None or newest[0].table_id != pinned.table_id:
        return None
    try:
        rows = DOCUMENTS.read(spark, pinned.path, pinned.version)
    except AnalysisException:  # VACUUM and the clean-up of the log leave no such version
        return None
    written = newest[1].written if newest[0].version == pinned.version else ""
    about = TableVersion(
        name=pinned.table,
        version=pinned.version,
        digest=pinned.digest,
        num_rows=pinned.num_rows,
        written=written,
    )
    return about, select_kept(rows)
