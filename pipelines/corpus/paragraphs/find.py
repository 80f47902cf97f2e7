"""Files -> the copied paragraphs of each block of texts, found before anything else is decided.

1. If a source maps a key, or a gzip file was cut by size: read the positions. A record that repeats a key is
   no document, so its paragraphs are no reason to take them from another; a place needs a settled slice.
2. Read the texts: each task notes which of them have a paragraph (`select.py`), and empties its memory into
   rows when it is full. The texts between two such moments are a block: most tasks have one or a few, a file
   that cannot be cut has many.
3. Group the rows by paragraph: this is `find_copied`, for any number of rows. Each block gets the copied
   paragraphs that its own texts have, and nothing else.

Cost: one more pass over the files, two with keys or cut gzip files. Shuffled are about 60 bytes per document,
and per block and different paragraph of it. What blocks get is shuffled, sorted and loaded again by each
later reading of the texts: positions, documents, and pairs of near duplicates.

Memory of a task: here 300 bytes for each pair of a paragraph and a text of a block; later 200 bytes for each
copied paragraph of a block, and for each of its texts that stays whole. A block ends with the text that
reaches `MAX_NOTED` pairs or texts, so this does not grow with a file.
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
_BLOCK = ("task", "slice", "offset")
_SEEN = """task INT, slice INT, offset BIGINT, paragraph BINARY, place BIGINT, content BINARY,
           is_whole BOOLEAN, source STRING, num_chars BIGINT"""
"""Three kinds of rows: a sighting in a block (paragraph, place, content), a text of a block that has
paragraphs (content, and whether it stays whole), and the characters of all documents of a source in a task
(source, num_chars). Slice and offset of a block are those of its first text."""
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
    """Rows of COPIED: the copied paragraphs of each block as `find_copied` finds them, and its texts that
    stay whole. `seen` are the rows of `_note_texts`."""
    block = F.struct(*_BLOCK)
    paragraphs = (
        seen.where("paragraph IS NOT NULL")
        .groupBy("paragraph")
        .agg(
            F.count_distinct("content").alias("num_texts"),
            F.min(F.struct("place", "content")).alias("first"),
            F.collect_set(block).alias("blocks"),
        )
        .where(F.col("num_texts") > max_documents)
        .select(F.explode("blocks").alias("block"), "paragraph", F.col("first.content").alias("content"))
    )
    # The blocks that would edit a text: one outside these splits is never edited.
    texts = (
        seen.where("is_whole IS NOT NULL")
        .groupBy("content")
        .agg(
            F.bool_or("is_whole").alias("is_whole"),
            F.collect_set(F.when(~F.col("is_whole"), block)).alias("blocks"),
        )
        .where("is_whole")
        .select(F.explode("blocks").alias("block"), F.lit(None).cast("binary").alias("paragraph"), "content")
    )
    rows = paragraphs.unionByName(texts).select("block.*", "paragraph", "content")
    return rows.select(*(column.split()[0] for column in COPIED.split(", ")))


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
    """Rows of _SEEN, of a task; those of the sightings whenever a block has more than `max_noted` of them, or
    more texts."""
    open_source, seen = open_sources(sources, scattered), Sightings(settings.max_documents)
    task, num_chars = 0, Counter[str]()
    block = (-1, -1, -1)

    def take() -> Iterator[tuple[int, tuple]]:
        return ((_ROW_BYTES, (*block, *each, None, None, None)) for each in seen.take())

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
            if not seen.num_texts:
                block = (task, row["slice"], record.offset)
            yield _ROW_BYTES, (*block, None, None, content, is_whole, None, None)
            seen.add(hashes, pack_place(SPLIT_ORDER[split], row["slice"], number), content)
            if max(len(seen), seen.num_texts) > max_noted:
                yield from take()
    yield from take()
    for name, chars in sorted(num_chars.items()):
        yield _ROW_BYTES, (task, None, None, None, None, None, None, name, chars)
