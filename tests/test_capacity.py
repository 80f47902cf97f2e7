"""The capacity guide, and how its coefficients come from measurements. Without Spark."""

import json
from dataclasses import replace

import pytest

from benchmarks import capacity
from benchmarks.growth import compute_growth, find_coefficients

MIB = 2**20


def samples():
    """Both stages at 1x, 4x and 16x of 30 MB: 2 s to start, then 5 MB and 3 MB a second."""
    for stage, rate in (("corpus", 5e6), ("dataset", 3e6)):
        for factor in (1, 4, 16):
            num_bytes = 30e6 * factor
            rows = num_bytes / 3_000 if stage == "corpus" else num_bytes / 4_000
            yield {
                "stage": stage,
                "factor": factor,
                "input_bytes": num_bytes,
                "rows": rows,
                "seconds": 2 + num_bytes / rate,
                "seconds_per_row": (2 + num_bytes / rate) / rows,
                "shuffle_bytes": 60 * rows,
                "shuffle_bytes_per_row": 60.0,
                "table_bytes": num_bytes / 2,
                "tokens": num_bytes / 4,
                "copied_tokens": num_bytes / 5,
                "copy_bytes": num_bytes,
                "worker_bytes": 2e8 + factor,
                "jvm_bytes": 1e8 + factor,
            }


def test_coefficients_are_slopes_per_slot():
    found = find_coefficients(list(samples()))
    assert found.corpus_bytes_per_second == pytest.approx(2.5e6)
    assert found.dataset_bytes_per_second == pytest.approx(1.5e6)
    assert (found.document_bytes, found.tokens_per_byte) == (3_000, 0.25)
    assert (found.documents_bytes_per_text_byte, found.sequences_bytes_per_token) == (0.5, 2)
    assert found.dataset_shuffle_bytes_per_text_byte == pytest.approx(60 / 4_000)
    assert (found.copy_bytes_per_token, found.worker_bytes, found.jvm_bytes) == (5, 2e8 + 16, 1e8 + 16)


def test_growth_of_a_linear_stage_is_one():
    measured = [sample for sample in samples() if sample["stage"] == "corpus"]
    assert compute_growth(measured)["slope_of_seconds"] == pytest.approx(1)
    slower = [{**each, "seconds": each["seconds"] ** 1.2} for each in measured]
    assert compute_growth(slower)["slope_of_seconds"] > 1.1


@pytest.mark.parametrize("cost_of", [capacity.cost_corpus, capacity.cost_dataset])
def test_ten_times_the_text_costs_ten_times(cost_of):
    known = find_coefficients(list(samples()))
    once, tenfold = (cost_of(size, 64, known) for size in (10**13, 10**14))
    for name in ("seconds", "shuffle_bytes", "written_bytes"):
        assert getattr(tenfold, name) == pytest.approx(10 * getattr(once, name)), name
    assert tenfold.num_tasks == pytest.approx(10 * once.num_tasks, rel=0.01)
    more = cost_of(10**14, 1_024, known)
    assert more.seconds * 16 == pytest.approx(tenfold.seconds)
    assert more.storage_bytes_per_second == pytest.approx(16 * tenfold.storage_bytes_per_second)


def test_a_gigabyte_has_fewer_tasks_than_slots():
    known = find_coefficients(list(samples()))
    cost = capacity.cost_corpus(10**9, 1_024, known)
    assert cost.num_tasks == round(10**9 / (4 * MIB))
    faster = replace(known, corpus_bytes_per_second=2 * known.corpus_bytes_per_second)
    assert capacity.cost_corpus(10**9, 1_024, faster).seconds == pytest.approx(cost.seconds / 2)


def test_the_guide_has_the_tables_of_its_coefficients():
    guide = capacity.GUIDE.read_text(encoding="utf-8")
    measured = json.loads(capacity.COEFFICIENTS.read_text(encoding="utf-8"))
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
