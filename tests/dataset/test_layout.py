"""Groups of documents, beside a model of all documents that computes them one by one. No Spark."""

import random
from collections import Counter

import pytest

from pipelines.dataset.documents import DOCUMENT_BYTES
from pipelines.dataset.earlier import add_counts
from pipelines.dataset.layout import LAYOUT_REVISION, count_parts, find_moved, lay_out_groups, min_own_bytes
from pipelines.dataset.spark_hash import hash_modulo

GROUP_BYTES = 1_000


@pytest.mark.parametrize(
    ("num_bytes", "parts"),
    # 1.41 times as large is the most; twice as many groups are then 0.7 times as large.
    [(0, 1), (1_000, 1), (1_414, 1), (1_415, 2), (2_828, 2), (2_829, 4), (10**6, 1024), (724_077, 512)],
)
def test_the_number_of_parts_is_the_nearest_power_of_two(num_bytes, parts):
    assert count_parts(num_bytes, GROUP_BYTES) == parts


def test_a_layout_names_groups_by_what_they_hold():
    one = lay_out_groups({("a", None): 3_000, ("a", "f"): 900}, GROUP_BYTES)
    more = lay_out_groups({("a", None): 3_100, ("a", "f"): 900, ("b", None): 5, ("a", "g"): 400}, GROUP_BYTES)
    assert [len(numbers) for numbers in one.places.values()] == [4, 1]
    assert {place: more.places[place] for place in one.places} == one.places
    assert len(set(more.groups)) == 4 + 1 + 1 + 1
    assert all(0 <= number < 2**31 for number in more.groups)
    # Values of before: another hash would build every table again.
    assert one.groups == [829990839, 893394984, 1250109421, 1708718638, 1738051039]


def measure_places(documents):
    """As documents.summarize_documents does it, in plain Python."""
    sizes = Counter()
    for (source, file, _), num_bytes in documents.items():
        sizes[source, file] += num_bytes
    places = Counter()
    for (source, file), num_bytes in sizes.items():
        places[source, file if num_bytes >= min_own_bytes(GROUP_BYTES) else None] += num_bytes
    return sizes, dict(places)


def find_group(layout, source, file, doc_id):
    numbers = layout.places.get((source, file))
    if numbers is not None:
        return numbers[hash_modulo(doc_id, len(numbers))]
    numbers = layout.places[source, None]
    return numbers[hash_modulo(file, len(numbers))]


@pytest.mark.parametrize("seed", range(30))
def test_documents_that_did_not_change_move_only_between_groups_that_are_named(seed):
    draw = random.Random(seed)
    old = {
        (source, f"f{draw.randrange(40)}", str(number)): draw.randrange(1, 60)
        for source in "ab"
        for number in range(draw.randrange(1, 300))
    }
    new = {document: size for document, size in old.items() if draw.random() > 0.1}
    new |= {
        (draw.choice("abc"), f"f{draw.randrange(3)}", f"new {each}"): 50 for each in range(draw.randrange(60))
    }
    (old_sizes, old_places), (new_sizes, new_places) = measure_places(old), measure_places(new)
    before, now = (lay_out_groups(places, GROUP_BYTES) for places in (old_places, new_places))
    shared_before = [
        place for place in new_places.keys() - old_places.keys() if place[1] and old_sizes[place]
    ]
    shared_now = [place for place in old_places.keys() - new_places.keys() if place[1] and new_sizes[place]]
    moved = find_moved(before, now, shared_before=shared_before, shared_now=shared_now)
    pairs = [(find_group(before, *each), find_group(now, *each)) for each in old.keys() & new.keys()]
    assert all({one, other} <= moved for one, other in pairs if one != other)
    stayed = {one for one, other in pairs if one == other} - moved
    if seed == 10:
        assert min(len(shared_before), len(shared_now), len(stayed)) >= 5, (
            "the interesting cases did not occur"
        )


def test_a_file_of_its_own_that_is_new_moves_nothing():
    before = lay_out_groups({("a", None): 5_000}, GROUP_BYTES)
    now = lay_out_groups({("a", None): 5_000, ("a", "new"): 900}, GROUP_BYTES)
    assert find_moved(before, now) == set(now.places["a", "new"])


def test_counts_of_splits_are_added_and_taken_away():
    before = {"test": {"sequences": 1, "tokens": 9}, "train": {"sequences": 5, "tokens": 50}}
    removed = {"test": {"sequences": 1, "tokens": 9}, "train": {"sequences": 2, "tokens": 21}}
    added = {"train": {"sequences": 3, "tokens": 30}, "validation": {"sequences": 1, "tokens": 4}}
    assert add_counts(before, added, removed) == {
        "train": {"sequences": 6, "tokens": 59},
        "validation": {"sequences": 1, "tokens": 4},
    }


def test_another_layout_needs_another_revision():
    """An increment computes the layout of the table that is there. If this fails, raise LAYOUT_REVISION."""
    groups = lay_out_groups({("a", None): 3_000, ("码", "f"): 900}, GROUP_BYTES).groups
    assert (LAYOUT_REVISION, min_own_bytes(GROUP_BYTES), DOCUMENT_BYTES) == (1, 250, 512)
    assert groups == [829990839, 893394984, 935592157, 1250109421, 1738051039]
