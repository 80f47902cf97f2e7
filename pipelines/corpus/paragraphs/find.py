"""Files -> the copied paragraphs of each task, found before anything else is decided about documents.

1. If a source maps a key, or a gzip file was cut by size: read the positions. A record that repeats a key is
   no document, so its paragraphs are no reason to take them from another; a place needs a settled slice.
2. Read the texts: each task notes which of them have a paragraph (`select.py`), and empties its memory into
   rows when it is full.
3. Group the rows by paragraph: this is `find_copied`, for any number of rows. Each task gets the copied
   paragraphs that its own texts have, and nothing else.

Cost: one more pass over the files, two with keys or cut gzip files. Shuffled are about 50 bytes per document,
and per task and different paragraph of it. Memory of a task: `MAX_NOTED` pairs of a paragraph and a text
here, and later the copied paragraphs of its texts (about 200 bytes each).
"""

from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipelines.corpus.dedup import find_first_records, label_repeated_keys
from pipelines.corpus.ids import content_hash
from pipelines.corpus.paragraphs.pieces import hash_pieces, split_text
from pipelines.corpus.paragraphs.select import Sightings, pack_place
from pipelines.corpus.paragraphs.settings import Paragraphs
from pipelines.corpus.readers.files import open_sources, read_positions, read_rows, read_slice
from pipelines.corpus.readers.rows import map_record
from pipelines.corpus.readers.settle import settle
from pipelines.corpus.readers.slices import COPIED, Edits, Scattered, Slices
from pipelines.corpus.source import Source
from pipelines.corpus.split import SPLIT_ORDER, find_split
from pipelines.spark import persisted

MAX_NOTED = 250_000
"""About 75 MB."""
_SEEN = """task INT, paragraph BINARY, place BIGINT, content BINARY, is_whole BOOLEAN,
           source STRING, num_chars BIGINT"""
"""Three kinds of rows: a sighting (paragraph, place, content), a text that has paragraphs (content, and
whether it stays whole), and the characters of all documents of a source in a task (source, num_chars)."""
_ROW_BYTES = 100


@contextmanager
def open_edits(
    spark: SparkSession, sources: Sequence[Source], slices: Slices, settings: Paragraphs
) -> Iterator[Slices]:
    """The slices, settled, with what their texts lose; readings of them give the edited texts.

    Raises ValueError if there are more slices, or records in one, than a place has room for.
    """
    compared = {number: each for number, each in enumerate(sources) if not (each.parts or each.messages)}
    if not compared:
        yield slices
        return
    with ExitStack() as kept:
        with ExitStack() as stack:
            slices, repeated = _settle(stack, spark, sources, slices, compared)
            work = partial(_note_texts, sources=sources, settings=settings, max_noted=MAX_NOTED)
            own = _select_sources(slices, compared)
            seen = stack.enter_context(persisted(read_rows(spark, own, repeated, work, _SEEN)))
            totals = seen.where("source IS NOT NULL").groupBy("source").agg(F.sum("num_chars").alias("chars"))
            num_chars = {row.source: row.chars for row in totals.collect()}
            rows = kept.enter_context(persisted(list_copied(seen, settings.max_documents)))
            rows.count()  # while the sightings are there
        yield replace(slices, edits=Edits(settings=settings, rows=rows, num_chars=num_chars))


def list_copied(seen: DataFrame, max_documents: int) -> DataFrame:
    """Rows of COPIED: the copied paragraphs of each task as `find_copied` finds them, and its texts that stay
    whole. `seen` are the rows of `_note_texts`."""
    paragraphs = (
        seen.where("paragraph IS NOT NULL")
        .groupBy("paragraph")
        .agg(
            F.count_distinct("content").alias("num_texts"),
            F.min(F.struct("place", "content")).alias("first"),
            F.collect_set("task").alias("tasks"),
        )
        .where(F.col("num_texts") > max_documents)
        .select(F.explode("tasks").alias("task"), "paragraph", F.col("first.content").alias("content"))
    )
    # The tasks that would edit a text: one outside these splits is never edited.
    texts = (
        seen.where("is_whole IS NOT NULL")
        .groupBy("content")
        .agg(
            F.bool_or("is_whole").alias("is_whole"),
            F.collect_set(F.when(~F.col("is_whole"), F.col("task"))).alias("tasks"),
        )
        .where("is_whole")
        .select(F.explode("tasks").alias("task"), F.lit(None).cast("binary").alias("paragraph"), "content")
    )
    return paragraphs.unionByName(texts).select(*(column.split()[0] for column in COPIED.split(", ")))


def _settle(
    stack: ExitStack,
    spark: SparkSession,
    sources: Sequence[Source],
    slices: Slices,
    compared: dict[int, Source],
) -> tuple[Slices, DataFrame | None]:
    """The slices with exact places, and the records that repeat a key; None = none can."""
    has_keys = any("key" in source.fields for source in compared.values())
    if not (slices.has_cut_gzip or has_keys):
        return slices, None
    read = partial(read_positions, spark, sources)
    positions = stack.enter_context(persisted(read(slices)))
    positions, slices = stack.enter_context(settle(positions, slices, read))
    if not has_keys:
        return slices, None
    names = [source.name for source in compared.values()]
    documents = positions.where(F.col("doc_id").isNotNull() & F.col("source").isin(*names))
    repeated = label_repeated_keys(documents, find_first_records(documents))
    return slices, repeated.select("task", "slice", "offset", "first_file", "first_offset")


def _select_sources(slices: Slices, numbers: Collection[int]) -> Slices:
    """The slices of these sources, all others left out."""
    source = slices.manifest.files["source"].take(pa.array(slices.file, pa.int64()))
    is_own = pc.is_in(source, value_set=pa.array(list(numbers), pa.int32()))
    task = pc.if_else(is_own, pa.array(slices.task, pa.int32()), -1)
    return replace(slices, task=array("i", task.to_pylist()))


def _note_texts(
    scattered: Scattered, sources: Sequence[Source], settings: Paragraphs, max_noted: int
) -> Iterator[tuple[int, tuple]]:
    """Rows of _SEEN, of a task; those of the sightings whenever there are more than `max_noted`."""
    open_source, seen = open_sources(sources, scattered), Sightings(settings.max_documents)
    task, num_chars = 0, Counter[str]()

    def take() -> Iterator[tuple[int, tuple]]:
        return ((_ROW_BYTES, (task, *each, None, None, None)) for each in seen.take())

    for row, part in scattered.slices():
        source, files, mapper = open_source(row["source"])
        task = row["task"]
        for number, record in enumerate(read_slice(files, source, part)):
            repeats_key = scattered.label(record.offset) is not None
            columns = None if repeats_key else map_record(record, mapper)
            if columns is None:
                continue
            text = columns.text
            num_chars[source.name] += len(text)
            hashes = hash_pieces(text, split_text(text, settings.unit), settings.min_bytes)
            if not any(hashes):
                continue
            identity = content_hash(text.encode(), None)
            split, content = columns.split or find_split(identity, source.splits), bytes.fromhex(identity)
            is_whole = split not in settings.drop_from
            yield _ROW_BYTES, (task, None, None, content, is_whole, None, None)
            seen.add(hashes, pack_place(SPLIT_ORDER[split], row["slice"], number), content)
            if len(seen) > max_noted:
                yield from take()
    yield from take()
    for name, chars in sorted(num_chars.items()):
        yield _ROW_BYTES, (task, None, None, None, None, name, chars)
