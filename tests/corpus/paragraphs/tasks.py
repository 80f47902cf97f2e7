"""The rows of one task, put together without Spark: what `scatter` gives it, for files that really exist."""

import json

import pyarrow as pa

from pipelines.corpus.manifest import list_sources
from pipelines.corpus.paragraphs import find
from pipelines.corpus.paragraphs.select import Sighting, find_copied
from pipelines.corpus.readers import slices
from pipelines.corpus.source import Source

_NAMES = ("offset", *slices.Label._fields, "paragraph", "content")


def write_pages(folder, *texts_of_files, **knobs):
    """A source of train with a file for each list of texts."""
    for number, texts in enumerate(texts_of_files):
        lines = [json.dumps({"t": text}, ensure_ascii=False) for text in texts]
        (folder / f"{number}.jsonl").write_text("\n".join(lines) + "\n")
    knobs = {"format": "jsonl", "fields": {"text": "t"}, "splits": {"train": 1.0}, **knobs}
    return Source(name="pages", path=str(folder), **knobs)


def scatter(source, *others):
    """A task that reads all slices of the source, with other rows (dicts) where Spark would sort them."""
    table = slices.cut_files(list_sources([source]), [source], 2**30).to_arrow()
    assert set(table["task"].to_pylist()) == {0}
    rows = sorted([*table.to_pylist(), *others], key=_order)
    columns = {name: [row.get(name) for row in rows] for name in (*table.column_names, *_NAMES)}
    size = 7  # so that blocks and slices do not end with batches
    whole = pa.RecordBatch.from_pydict(columns)
    return [whole.slice(start, size) for start in range(0, len(rows), size)]


def _order(row):
    offset = row.get("offset")
    return row["slice"], -1 if offset is None else offset, row.get("content") is None


def note_texts(source, settings, max_noted):
    """(blocks as (task, slice, offset), rows of COPIED as dicts), as `list_copied` makes them in Spark."""
    scattered = slices.Scattered(scatter(source))
    seen = [row for _, row in find._note_texts(scattered, [source], settings, max_noted)]
    noted = [row for row in seen if row[3] is not None]
    owners = find_copied([Sighting(*row[3:6]) for row in noted], settings.max_documents)
    copied = {(row[:3], row[3], owners[row[3]]) for row in noted if row[3] in owners}
    names = ("task", "slice", "offset")
    blocks = sorted({row[:3] for row in seen if row[1] is not None})
    return blocks, [
        dict(zip(names, block, strict=True)) | {"paragraph": paragraph, "content": content}
        for block, paragraph, content in copied
    ]
