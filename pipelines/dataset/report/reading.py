"""A table of sequences as the `Content` of a report."""

from pyspark.sql import SparkSession

from pipelines.dataset.pinned_files import LATER_COLUMNS, require_columns
from pipelines.dataset.report.content import Content
from pipelines.dataset.report.counting import count_documents, count_rows
from pipelines.dataset.report.decoding import PieceDecoder
from pipelines.dataset.report.samples import choose_samples
from pipelines.dataset.tokenizer import read_tokenizer
from pipelines.pin import Pin
from pipelines.report import TableVersion, find_version
from pipelines.tables import SEQUENCES


def read_content(spark: SparkSession, sequences: str, tokenizers: str, title: str) -> Content:
    """Counts the newest sequences and decodes some: four Spark jobs.

    Raises ValueError if the table is not one that the stage dataset has written, or lacks columns, and what
    `read_tokenizer` raises.
    """
    found = find_version(sequences)
    if found is None or not found[0].fingerprint:
        raise ValueError(f"{sequences} is not a table that dataset has written; run: distributary dataset")
    pinned, about = found
    facts = pinned.facts
    rows = SEQUENCES.read(spark, pinned.path, pinned.version)
    needed = (name for name in SEQUENCES.schema.names if name not in LATER_COLUMNS.names)
    require_columns(sequences, pinned.version, rows.columns, needed)
    decoder = PieceDecoder(read_tokenizer(tokenizers, facts["tokenizer"]))
    counted = count_rows(rows, facts["sequence_length"])
    num_rows: dict[str, int] = {}
    for (split, _), number in counted.fills.items():
        num_rows[split] = num_rows.get(split, 0) + number
    return Content(
        title=title,
        tables=[about, _name_documents(Pin(**facts["documents"]))],
        task=facts["task"],
        sequence_length=facts["sequence_length"],
        num_labels=len(facts["labels"]),
        tokenizer=facts["tokenizer"],
        lengths=counted.lengths,
        fills=counted.fills,
        documents=count_documents(rows),
        samples=choose_samples(rows, num_rows, decoder, facts["labels"]),
    )


def _name_documents(pinned: Pin) -> TableVersion:
    """The documents that the sequences were made from; when they were written is in their own report."""
    return TableVersion(
        name=pinned.table, version=pinned.version, digest=pinned.digest, num_rows=pinned.num_rows, written=""
    )
