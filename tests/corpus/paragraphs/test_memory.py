"""What a task keeps in memory of the paragraphs that texts lose, below Spark."""

import json
from functools import partial

import pyarrow as pa
import pytest

from pipelines.corpus.manifest import list_sources
from pipelines.corpus.measure import Measuring, attach_measures
from pipelines.corpus.paragraphs.pieces import hash_pieces, split_text
from pipelines.corpus.paragraphs.settings import Paragraphs
from pipelines.corpus.readers import files, slices
from pipelines.corpus.source import Source
from pipelines.schema import arrow_schema

SETTINGS = Paragraphs(enabled=True)
COPIED_LINES = [f"Line {number} of a menu that all pages of this site have." for number in range(200)]
_LABELS = ("offset", "duplicate_of", "first_file", "first_offset", "failed_rule")


def write_pages(folder, num_pages):
    """A file with pages that have the copied lines and one of their own."""
    pages = ({"t": "\n".join([*COPIED_LINES, f"own {number}"])} for number in range(num_pages))
    (folder / "a.jsonl").write_text("".join(f"{json.dumps(page)}\n" for page in pages))
    return Source(name="pages", path=str(folder), format="jsonl", fields={"text": "t"}, splits={"train": 1.0})


def scatter_rows(source):
    """The rows of the only task, as `scatter` orders them: another text has all copied lines."""
    table = slices.cut_files(list_sources([source]), [source], 2**30).to_arrow()
    text = "\n".join(COPIED_LINES)
    hashes = hash_pieces(text, split_text(text, "line"), SETTINGS.min_bytes)
    copied = [{"task": 0, "paragraph": each, "content": b"other"} for each in hashes]
    rows = [*copied, *table.to_pylist()]
    names = [*table.column_names, *_LABELS, "paragraph", "content"]
    return [pa.RecordBatch.from_pydict({name: [row.get(name) for row in rows] for name in names})]


@pytest.mark.parametrize(
    "measuring", [Measuring(), Measuring(signals=("num_lines",)), Measuring(with_language=True)]
)
def test_evidence_of_removed_paragraphs_counts_in_the_size_of_batches(spark, tmp_path, measuring):
    source = write_pages(tmp_path, 500)
    work = partial(files._measure_positions, sources=[source], measuring=measuring)
    work = partial(files._work_on_slices, work=work, edited_by=SETTINGS)
    batches = list(files._run(scatter_rows(source), work, arrow_schema(files.MEASURED)))
    removed = [row for batch in batches for row in batch["removed"].to_pylist() if row is not None]
    assert [len(row) for row in removed] == [200] * 500
    # 200 x 270 bytes a page: 156 pages are 8 MiB.
    assert max(batch.num_rows for batch in batches) <= 156


def test_texts_that_wait_for_signals_are_few_if_much_was_removed(tmp_path):
    source, num_read = write_pages(tmp_path, 200), 0

    def count_rows():
        nonlocal num_read
        for row in files._find_positions(slices.Scattered(scatter_rows(source), SETTINGS), [source]):
            num_read += 1
            yield row

    next(attach_measures(count_rows(), Measuring(signals=("num_lines",))))
    assert num_read == 78  # 4 MiB of evidence; the texts that are left have 6 characters each
