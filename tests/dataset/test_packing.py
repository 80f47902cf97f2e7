import numpy as np
import pytest

from pipelines.dataset.arrays import expand, find_runs, mark_runs
from pipelines.dataset.examples.example import Example, Unit
from pipelines.dataset.packing.concatenate import concatenate
from pipelines.dataset.packing.one_per_document import pack_one_per_document
from pipelines.dataset.packing.rules import PackingRules


def unit(first: int, num_tokens: int) -> Unit:
    """Tokens first, first + 1, ...; token i is character i - first, one byte; all but the first are
    targets."""
    starts = np.arange(num_tokens, dtype=np.int32)
    is_target = np.arange(num_tokens) > 0
    ones = np.ones(num_tokens, np.int32)
    return Unit(np.arange(first, first + num_tokens, dtype=np.int32), is_target, starts, starts + 1, ones)


def example(doc_id: str, first: int, *lengths: int, cut: int = 0) -> Example:
    firsts = first + np.cumsum([0, *lengths])
    return Example(doc_id, [unit(*pair) for pair in zip(firsts, lengths, strict=False)], num_cut_tokens=cut)


def random_examples(seed: int) -> list[Example]:
    generator = np.random.default_rng(seed)
    examples, first = [], 0
    for number in range(40):
        lengths = generator.integers(0, 12, size=generator.integers(1, 4)).tolist()
        examples.append(example(f"doc{number}", first, *lengths))
        first += sum(lengths)
    return examples


@pytest.mark.parametrize("length", [2, 3, 7, 11, 1000])
@pytest.mark.parametrize("seed", range(5))
def test_concatenate_keeps_every_token_once_in_order(seed, length):
    examples = random_examples(seed)
    total = sum(len(each.input_ids) for one in examples for each in one.units)
    rows = list(concatenate(examples, length=length))
    assert total > 100
    assert np.concatenate([row.input_ids for row in rows]).tolist() == list(range(total))
    assert all(len(row.input_ids) == length for row in rows[:-1])
    assert 1 <= len(rows[-1].input_ids) <= length
    # Segments tile each row, and name the document that each token came from.
    owner = [one.doc_id for one in examples for each in one.units for _ in each.input_ids]
    for row in rows:
        ends = np.cumsum([segment.num_tokens for segment in row.segments])
        assert [segment.first_token for segment in row.segments] == [0, *ends[:-1]]
        assert ends[-1] == len(row.input_ids)
        named = [segment.doc_id for segment in row.segments for _ in range(segment.num_tokens)]
        assert named == [owner[token] for token in row.input_ids]


@pytest.mark.parametrize("length", [2, 5, 1000])
def test_first_tokens_of_segments_are_not_targets(length):
    examples = random_examples(seed=9)
    rows = list(concatenate(examples, length=length))
    for row in rows:
        firsts = {segment.first_token for segment in row.segments}
        # Brute force: in these units every token but a first one is a target.
        assert row.is_target.tolist() == [place not in firsts for place in range(len(row.input_ids))]
    assert any(len(row.segments) > 1 for row in rows)


def test_packing_leaves_the_units_unchanged():
    examples = [example("a", 0, 9)]
    list(concatenate(examples, length=2))
    assert examples[0].units[0].is_target.sum() == 8  # rows cleared targets in copies only


def test_segments_name_document_first_token_and_characters():
    first, second = concatenate([example("a", 0, 3), example("b", 3, 4)], length=5)
    assert [tuple(segment) for segment in first.segments] == [("a", 0, 3, 0, 3), ("b", 3, 2, 0, 2)]
    assert [tuple(segment) for segment in second.segments] == [("b", 0, 2, 2, 4)]
    assert first.is_target.tolist() == [False, True, True, False, True]
    assert second.is_target.tolist() == [False, True]


def test_special_tokens_do_not_widen_a_segment():
    ids, ends = np.array([7, 8, 9], np.int32), np.array([-1, 6, -1], np.int32)
    starts, sizes = np.array([-1, 4, -1], np.int32), np.array([0, 2, 0], np.int32)
    (row,) = pack_one_per_document([Example("a", [Unit(ids, ids > 7, starts, ends, sizes)])], length=3)
    assert tuple(row.segments[0]) == ("a", 0, 3, 4, 6)


def test_units_of_a_document_share_its_row():
    rows = list(pack_one_per_document([example("a", 0, 3, 2), example("b", 5, 1)], length=5))
    assert [[segment.num_tokens for segment in row.segments] for row in rows] == [[3, 2], [1]]
    assert rows[0].is_target.tolist() == [False, True, True, False, True]


def test_one_per_document_refuses_what_does_not_fit():
    (row,) = pack_one_per_document([example("a", 0, 4, cut=3)], length=4)
    assert row.num_cut_tokens == 3
    with pytest.raises(
        ValueError, match="document a has 5 tokens, at most 4 fit; let the example builder cut it"
    ):
        list(pack_one_per_document([example("a", 0, 3, 2)], length=4))


def test_one_per_document_drops_empty_units_only():
    (row,) = pack_one_per_document([example("a", 0, 0, 2, 0)], length=4)
    assert [segment.num_tokens for segment in row.segments] == [2]
    with pytest.raises(ValueError, match="document a has no tokens; its builder must give at least one"):
        list(pack_one_per_document([example("a", 0, 0, 0)], length=4))


@pytest.mark.parametrize("seed", range(3))
def test_runs_describe_their_marks(seed):
    marks = np.random.default_rng(seed).random(50) < 0.6
    runs = find_runs(marks)
    assert len(runs) > 3
    # By hand: a run starts where a mark follows none.
    starts = [place for place in range(50) if marks[place] and not (place and marks[place - 1])]
    assert [first for first, _ in runs] == starts
    first, counts = (np.array(column) for column in zip(*runs, strict=True))
    assert np.array_equal(mark_runs(first, counts, size=50), marks)


def test_expand_counts_up_from_each_first_number():
    assert expand(np.array([10, 3, 7]), np.array([2, 0, 3])).tolist() == [10, 11, 7, 8, 9]
    assert expand(np.empty(0, np.int64), np.empty(0, np.int64)).tolist() == []
    assert find_runs(np.zeros(0, bool)) == []


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"sequence_length": 1}, "sequence_length must be at least 2 tokens, got 1"),
        ({"group_bytes": 0}, "group_bytes must be at least 1, got 0"),
        ({"method": "best"}, "method must be one_per_document or concatenate, got 'best'"),
    ],
)
def test_impossible_packing_rules_are_refused(field, message):
    with pytest.raises(ValueError, match=message):
        PackingRules(**field)
