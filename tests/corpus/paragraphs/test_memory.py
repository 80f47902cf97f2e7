"""What a task keeps in memory of the paragraphs that texts lose, below Spark."""

from functools import partial

import pytest

from pipelines.corpus.measure import Measuring, attach_measures
from pipelines.corpus.paragraphs.pieces import hash_pieces, split_text
from pipelines.corpus.paragraphs.settings import Paragraphs
from pipelines.corpus.readers import files
from pipelines.corpus.readers.slices import Scattered
from pipelines.schema import arrow_schema
from tests.corpus.paragraphs.tasks import note_texts, scatter, write_pages
from tests.corpus.paragraphs.twin import Document, deduplicate

SETTINGS = Paragraphs(enabled=True)
MENU = [f"Line {number} of a menu that all pages of this site have." for number in range(200)]


def scatter_pages(folder, num_pages):
    """(source, rows of a task) of pages with a menu and a line of their own; another text owns the menu."""
    source = write_pages(folder, ["\n".join([*MENU, f"own {number}"]) for number in range(num_pages)])
    text = "\n".join(MENU)
    hashes = hash_pieces(text, split_text(text, "line"), SETTINGS.min_bytes)
    place = {"task": 0, "slice": 0, "offset": 0, "content": b"other"}
    return source, scatter(source, *({**place, "paragraph": each} for each in hashes))


@pytest.mark.parametrize(
    "measuring", [Measuring(), Measuring(signals=("num_lines",)), Measuring(with_language=True)]
)
def test_evidence_of_removed_paragraphs_counts_in_the_size_of_batches(spark, tmp_path, measuring):
    source, rows = scatter_pages(tmp_path, 500)
    work = partial(files._measure_positions, sources=[source], measuring=measuring)
    work = partial(files._work_on_slices, work=work, edited_by=SETTINGS)
    batches = list(files._run(rows, work, arrow_schema(files.MEASURED)))
    removed = [row for batch in batches for row in batch["removed"].to_pylist() if row is not None]
    assert [len(row) for row in removed] == [200] * 500
    # 200 x 270 bytes a page: 156 pages are 8 MiB.
    assert max(batch.num_rows for batch in batches) <= 156


def test_texts_that_wait_for_signals_are_few_if_much_was_removed(tmp_path):
    source, rows = scatter_pages(tmp_path, 200)
    num_read = 0

    def count_rows():
        nonlocal num_read
        for row in files._find_positions(Scattered(rows, SETTINGS), [source]):
            num_read += 1
            yield row

    next(attach_measures(count_rows(), Measuring(signals=("num_lines",))))
    assert num_read == 78  # 4 MiB of evidence; the texts that are left have 7 characters each


def make_line(number):
    return f"Line {number} stands in two neighbours and nowhere else. 第{number}行"


def write_neighbours(folder, num_files=3):
    """Files of 40 texts, each with a line that the next text has too; two files share one line."""
    texts = [f"{make_line(n)}\nown {n}\n{make_line(n + 1)}" for n in range(40 * num_files)]
    parts = [texts[start : start + 40] for start in range(0, len(texts), 40)]
    documents = [Document("train", 0, number, text) for number, text in enumerate(texts)]
    return write_pages(folder, *parts), ["\n".join(kept) for kept in deduplicate(documents, SETTINGS)]


@pytest.mark.parametrize(
    ("max_noted", "num_blocks", "num_copied"),
    [(0, 120, 2), (10, 20, 7), (10**9, 1, 119)],  # a text has 2 lines; one that reaches 10 is the sixth
)
def test_a_task_knows_the_copied_paragraphs_of_one_block(tmp_path, max_noted, num_blocks, num_copied):
    source, expected = write_neighbours(tmp_path)
    blocks, copied = note_texts(source, SETTINGS, max_noted)
    assert len(blocks) == num_blocks
    task, largest, texts = Scattered(scatter(source, *copied), SETTINGS), 0, []
    for _, document in files._build_documents(task, [source]):
        largest = max(largest, len(task.copied.owners))
        texts.append(document[4].decode())
    assert texts == expected
    assert texts[1] == f"own 1\n{make_line(2)}"
    assert largest == num_copied


def test_many_texts_with_one_paragraph_make_several_blocks(tmp_path):
    """Their contents may all be those of texts that stay whole."""
    source = write_pages(tmp_path, [f"{MENU[0]}\n{number}" for number in range(100)])
    blocks, _ = note_texts(source, SETTINGS, 9)
    assert len(blocks) == 10


@pytest.mark.parametrize("max_noted", [0, 10, 10**9])
@pytest.mark.parametrize("numbers", [range(0, 120, 7), [119], [3, 4, 81]])
def test_texts_that_are_asked_for_by_label_lose_the_same_and_no_other_file_is_opened(
    tmp_path, max_noted, numbers
):
    source, expected = write_neighbours(tmp_path)
    _, copied = note_texts(source, SETTINGS, max_noted)
    places = [
        {"task": 0, "slice": row["slice"], "offset": record.offset, "failed_rule": "x"}
        for row, part in Scattered(scatter(source)).slices()
        for record in files.read_slice(files.locate(source.path)[0], source, part)
    ]
    labels = [places[number] for number in numbers]

    rows = scatter(source, *copied, *labels)
    for number in {0, 1, 2} - {number // 40 for number in numbers}:
        (tmp_path / f"{number}.jsonl").unlink()  # nobody opens it

    def work(texts):
        return ((0, text) for _, text in texts)

    task = Scattered(rows, SETTINGS)
    found = [text for _, text in files._work_on_texts(task, [source], work)]
    assert found == [expected[number] for number in numbers]


def test_a_block_whose_first_record_is_gone_stops_the_task(tmp_path):
    source, _ = write_neighbours(tmp_path)
    _, copied = note_texts(source, SETTINGS, 10)
    write_pages(tmp_path, ["short"], ["short"], ["short"])
    with pytest.raises(RuntimeError, match=r"0.jsonl changed while it was read: there is no record at "):
        list(files._build_documents(Scattered(scatter(source, *copied), SETTINGS), [source]))
