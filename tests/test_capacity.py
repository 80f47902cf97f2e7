"""The capacity guide, and how its coefficients come from measurements. Without Spark."""

import json
from dataclasses import replace

import pytest

from benchmarks import capacity, costs
from benchmarks.growth import compute_data_path_seconds, compute_growth, find_coefficients, write_documents
from benchmarks.samples import watch_size
from tests.processes import wait_until

MIB = 2**20
RATES = {"corpus": 5e6, "dataset": 3e6, "near_duplicates": 2e6, "scoring": 4e6}
COSTS = [costs.cost_corpus, costs.cost_near_duplicates, costs.cost_dataset, costs.cost_scoring]


def samples():
    """All stages at 1x, 4x and 16x of 30 MB: 2 s to start, then RATES in bytes a second, and in scoring a
    model that takes a second of each slot for 10 MB."""
    for stage, rate in RATES.items():
        for factor in (1, 4, 16):
            num_bytes = 30e6 * factor
            rows = num_bytes / 4_000 if stage == "dataset" else num_bytes / 3_000
            model_seconds = 2 * num_bytes / 1e7 if stage == "scoring" else 0.0
            seconds = 2 + num_bytes / rate + model_seconds / 2
            yield {
                "stage": stage,
                "factor": factor,
                "input_bytes": num_bytes,
                "rows": rows,
                "seconds": seconds,
                "data_path_seconds": compute_data_path_seconds(seconds, model_seconds),
                "seconds_per_row": seconds / rows,
                "shuffle_bytes": 60 * rows,
                "shuffle_bytes_per_row": 60.0,
                "table_bytes": num_bytes / 2,
                "tokens": num_bytes / 4,
                "copied_tokens": num_bytes / 5,
                "copy_bytes": num_bytes,
                "near_pairs": rows / 20,
                "search_bytes": 300 * rows,
                "held_bytes": 200 * rows,
                "worker_bytes": (5e8 if stage == "scoring" else 2e8) + factor,
                "jvm_bytes": 1e8 + factor,
            }


def test_coefficients_are_slopes_per_slot():
    found = find_coefficients(list(samples()))
    assert found.corpus_bytes_per_second == pytest.approx(2.5e6)
    assert found.near_duplicates_bytes_per_second == pytest.approx(1e6)
    assert found.dataset_bytes_per_second == pytest.approx(1.5e6)
    assert (found.document_bytes, found.tokens_per_byte) == (3_000, 0.25)
    assert (found.documents_bytes_per_text_byte, found.sequences_bytes_per_token) == (0.5, 2)
    assert found.dataset_shuffle_bytes_per_text_byte == pytest.approx(60 / 4_000)
    assert found.near_duplicates_kept_bytes_per_document == 300
    assert found.near_duplicates_held_bytes_per_document == 200
    assert found.near_pairs_per_document == 0.05
    assert (found.copy_bytes_per_token, found.jvm_bytes) == (5, 1e8 + 16)
    assert (found.worker_bytes, found.scoring_worker_bytes) == (2e8 + 16, 5e8 + 16)


def test_the_rate_of_scoring_is_without_the_model():
    """4 MB a second of both slots, though a model takes a third of the time."""
    assert find_coefficients(list(samples())).scoring_bytes_per_second == pytest.approx(2e6)


def test_growth_of_a_linear_stage_is_one():
    measured = [sample for sample in samples() if sample["stage"] == "corpus"]
    assert compute_growth(measured)["slope_of_seconds"] == pytest.approx(1)
    slower = [{**each, "seconds": each["seconds"] ** 1.2} for each in measured]
    assert compute_growth(slower)["slope_of_seconds"] > 1.1


@pytest.mark.parametrize("cost_of", COSTS)
def test_ten_times_the_text_costs_ten_times(cost_of):
    known = find_coefficients(list(samples()))
    once, tenfold = (cost_of(size, 64, known) for size in (10**13, 10**14))
    for name in ("seconds", "shuffle_bytes", "written_bytes"):
        assert getattr(tenfold, name) == pytest.approx(10 * getattr(once, name)), name
    if cost_of is costs.cost_scoring:  # at its most tasks, which become longer
        assert tenfold.num_tasks == once.num_tasks == 8_192
    else:
        assert tenfold.num_tasks == pytest.approx(10 * once.num_tasks, rel=0.01)
    more = cost_of(10**14, 1_024, known)
    assert more.seconds * 16 == pytest.approx(tenfold.seconds)
    assert more.storage_bytes_per_second == pytest.approx(16 * tenfold.storage_bytes_per_second)


def test_a_gigabyte_has_fewer_tasks_than_slots():
    known = find_coefficients(list(samples()))
    cost = costs.cost_corpus(10**9, 1_024, known)
    assert cost.num_tasks == round(10**9 / (4 * MIB))
    faster = replace(known, corpus_bytes_per_second=2 * known.corpus_bytes_per_second)
    assert costs.cost_corpus(10**9, 1_024, faster).seconds == pytest.approx(cost.seconds / 2)


def test_near_duplicates_cost_two_more_passes_and_tables_of_their_own():
    known = find_coefficients(list(samples()))
    plain, search = (
        cost_of(10**12, 64, known) for cost_of in (costs.cost_corpus, costs.cost_near_duplicates)
    )
    documents = 10**12 / 3_000
    assert search.written_bytes - plain.written_bytes == pytest.approx(500 * documents)
    read = search.storage_bytes_per_second * search.seconds - search.written_bytes
    assert read == pytest.approx(4 * 10**12)
    # Two more readings of every MiB and slice, at least.
    assert search.requests > plain.requests + 2 * (10**12 / MIB + plain.num_tasks)


@pytest.mark.parametrize(("num_bytes", "edges"), [(30e6, 500), (10**14, 1_000_000)])
def test_the_driver_takes_no_more_than_a_million_pairs(num_bytes, edges):
    """One document of 3,000 bytes in twenty has a near pair; a pair takes 100 bytes."""
    known = find_coefficients(list(samples()))
    without = replace(known, near_pairs_per_document=0.0)
    more, less = (costs.cost_near_duplicates(num_bytes, 64, each).driver_bytes for each in (known, without))
    assert more - less == pytest.approx(100 * edges)


def test_a_millisecond_in_the_model_is_added_for_each_document():
    """A GB has 333,333 documents, so 1 ms for each is 333 s on one slot."""
    rows = capacity.make_model_table(find_coefficients(list(samples())))
    assert rows[2] == "| 1 GB | 0.333 million | 2.78 min | 5.21 s | 0.326 s |"


def test_keys_of_few_rows_need_no_request():
    """Up to 2,048 a task. Of more, files are written, deleted, and read twice for each of two ranges."""
    assert costs.count_key_requests(2_048 * 10, 10) == 0
    assert costs.count_key_requests(9_000_000, 10) == 10 * (1 + 1 + 2 * 2)


def test_near_duplicates_grow_with_the_input(tmp_path):
    """A near duplicate has 6 of 600 words of its own; its original is in the same file."""
    write_documents(tmp_path / "texts", 3, 1.0)
    for file in sorted((tmp_path / "texts").iterdir()):
        lines = file.read_text(encoding="utf-8").splitlines()
        texts = [json.loads(line)["text"].split(" ") for line in lines]
        changed = [text for text in texts if any(word.startswith("changed") for word in text)]
        assert 0.02 < len(changed) / len(texts) < 0.08
        for text in changed:
            assert 6 in (sum(map(str.__ne__, text, each)) for each in texts if each not in changed)


def test_files_that_are_deleted_count_in_the_size(tmp_path):
    with watch_size(tmp_path) as size:
        (tmp_path / "held").write_bytes(b"x" * 1_000)
        wait_until(lambda: size["peak_bytes"])
        (tmp_path / "held").unlink()
    assert size["peak_bytes"] == 1_000


def test_the_guide_has_the_tables_of_its_coefficients():
    guide = capacity.GUIDE.read_text(encoding="utf-8")
    measured = json.loads(costs.COEFFICIENTS.read_text(encoding="utf-8"))
    remedy = "run: python -m benchmarks.capacity"
    assert capacity.fill_guide(guide, capacity.make_tables(measured)) == guide, remedy


def test_a_guide_without_a_place_for_tables_is_refused():
    with pytest.raises(ValueError, match="no part between"):
        capacity.fill_guide("# Scale\n", "tables")


def test_numbers_are_never_powers_of_ten():
    assert [capacity.round_number(n) for n in (0.01234, 12.345, 123_456, 2.5e9)] == [
        "0.0123",
        "12.3",
        "123,000",
        "2,500,000,000",
    ]
    assert [capacity.format_time(n) for n in (30, 300, 20_000, 10**6)] == [
        "30 s",
        "5 min",
        "5.56 h",
        "11.6 days",
    ]
