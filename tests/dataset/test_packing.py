from types import SimpleNamespace

import numpy as np
import pytest

from pipelines.dataset.arrays import expand, find_runs, mark_runs
from pipelines.dataset.examples.example import Example, Unit
from pipelines.dataset.packing.concatenate import concatenate
from pipelines.dataset.packing.one_per_document import pack_one_per_document
from pipelines.dataset.packing.packed import PackedRows, join_rows
from pipelines.dataset.packing.rules import PackingRules
from tests.dataset.units import example, random_examples


def split_rows(rows: PackedRows) -> list[SimpleNamespace]:
    """Each row on its own: input_ids, is_target (from its runs), segments as tuples, num_bytes."""
    runs = list(zip(rows.run_first_token.tolist(), rows.run_num_tokens.tolist(), strict=True))
    segments = list(
        zip(
            rows.segment_doc_ids,
            rows.segment_first_token.tolist(),
            rows.segment_num_tokens.tolist(),
            rows.segment_char_start.tolist(),
            rows.segment_char_end.tolist(),
            strict=True,
        )
    )
    tokens, found = rows.input_ids.tolist(), []
    for row, counts in enumerate(zip(rows.num_tokens, rows.num_runs, rows.num_segments, strict=True)):
        num_tokens, num_runs, num_segments = counts
        mine, runs = runs[:num_runs], runs[num_runs:]
        marks = [any(first <= place < first + size for first, size in mine) for place in range(num_tokens)]
        found.append(
            SimpleNamespace(
                input_ids=tokens[:num_tokens],
                is_target=marks,
                segments=segments[:num_segments],
                num_bytes=int(rows.num_bytes[row]),
                num_targets=int(rows.num_targets[row]),
            )
        )
        tokens, segments = tokens[num_tokens:], segments[num_segments:]
    assert (tokens, runs, segments) == ([], [], [])
    return found


def joined(packed) -> list[SimpleNamespace]:
    return split_rows(join_rows(list(packed)))


@pytest.mark.parametrize("length", [2, 3, 7, 11, 1000])
@pytest.mark.parametrize("seed", range(5))
def test_concatenate_keeps_every_token_once_in_order(seed, length):
    examples = random_examples(seed)
    total = sum(len(each.input_ids) for one in examples for each in one.units)
    rows = joined(concatenate(examples, length=length))
    assert total > 100
    assert [token for row in rows for token in row.input_ids] == list(range(total))
    assert all(len(row.input_ids) == length for row in rows[:-1])
    assert 1 <= len(rows[-1].input_ids) <= length
    # Segments tile each row, and name the document that each token came from.
    owner = [one.doc_id for one in examples for each in one.units for _ in each.input_ids]
    for row in rows:
        ends = np.cumsum([num_tokens for _, _, num_tokens, *_ in row.segments])
        assert [first for _, first, *_ in row.segments] == [0, *ends[:-1]]
        assert ends[-1] == len(row.input_ids)
        named = [doc_id for doc_id, _, num_tokens, *_ in row.segments for _ in range(num_tokens)]
        assert named == [owner[token] for token in row.input_ids]


@pytest.mark.parametrize("length", [2, 5, 1000])
def test_first_tokens_of_segments_are_not_targets(length):
    examples = random_examples(seed=9)
    rows = joined(concatenate(examples, length=length))
    for row in rows:
        firsts = {first for _, first, *_ in row.segments}
        # Brute force: in these units every token but a first one is a target, of one byte.
        assert row.is_target == [place not in firsts for place in range(len(row.input_ids))]
        assert row.num_targets == row.num_bytes == len(row.input_ids) - len(firsts)
    assert any(len(row.segments) > 1 for row in rows)


def test_packing_leaves_the_units_unchanged():
    examples = [example("a", 0, 9)]
    joined(concatenate(examples, length=2))
    assert examples[0].units[0].is_target.sum() == 8  # rows cleared targets in copies only


def test_segments_name_document_first_token_and_characters():
    first, second = joined(concatenate([example("a", 0, 3), example("b", 3, 4)], length=5))
    assert first.segments == [("a", 0, 3, 0, 3), ("b", 3, 2, 0, 2)]
    assert second.segments == [("b", 0, 2, 2, 4)]
    assert first.is_target == [False, True, True, False, True]
    assert second.is_target == [False, True]


def test_special_tokens_do_not_widen_a_segment():
    ids, ends = np.array([7, 8, 9], np.int32), np.array([-1, 6, -1], np.int32)
    starts, sizes = np.array([-1, 4, -1], np.int32), np.array([0, 2, 0], np.int32)
    units = [
        Unit(ids, ids > 7, starts, ends, sizes),
        Unit(ids[:1], ids[:1] > 7, ends[:1], ends[:1], sizes[:1]),
    ]
    (row,) = joined(pack_one_per_document([Example("a", units)], length=4))
    assert row.segments == [("a", 0, 3, 4, 6), ("a", 3, 1, 0, 0)]  # the second holds special tokens only
    assert row.num_bytes == 2


def test_a_class_is_one_term_and_counts_all_bytes():
    labelled = example("a", 0, 3, 2)._replace(label=5)
    labelled = labelled._replace(
        units=[each._replace(is_target=each.is_target & False) for each in labelled.units]
    )
    first, second = joined(pack_one_per_document([labelled, example("b", 5, 4)], length=9))
    assert (first.num_targets, first.num_bytes) == (1, 5)
    assert (second.num_targets, second.num_bytes) == (3, 3)


def test_units_of_a_document_share_its_row():
    rows = joined(pack_one_per_document([example("a", 0, 3, 2), example("b", 5, 1)], length=5))
    assert [[num_tokens for _, _, num_tokens, *_ in row.segments] for row in rows] == [[3, 2], [1]]
    assert rows[0].is_target == [False, True, True, False, True]


def test_one_per_document_refuses_what_does_not_fit():
    (row,) = pack_one_per_document([example("a", 0, 4, cut=3)], length=4)
    assert row.num_cut_tokens == 3
    with pytest.raises(
        ValueError, match="document a has a unit of 5 tokens, at most 4 fit; let the example builder cut it"
    ):
        list(pack_one_per_document([example("a", 0, 3, 5)], length=4))


def test_a_row_of_several_units_may_be_longer_than_each_of_them():
    (row,) = joined(pack_one_per_document([example("a", 0, 4, 3, 4)], length=4))
    assert [num_tokens for _, _, num_tokens, *_ in row.segments] == [4, 3, 4]


def test_one_per_document_drops_empty_units_only():
    (row,) = joined(pack_one_per_document([example("a", 0, 0, 2, 0)], length=4))
    assert row.segments == [("a", 0, 2, 0, 2)]
    with pytest.raises(ValueError, match="document a has no tokens; its builder must give at least one"):
        list(pack_one_per_document([example("a", 0, 0, 0)], length=4))


@pytest.mark.parametrize("seed", range(3))
def test_runs_describe_their_marks(seed):
    marks = np.random.default_rng(seed).random(50) < 0.6
    first, counts = find_runs(marks)
    assert len(first) > 3
    # By hand: a run starts where a mark follows none.
    starts = [place for place in range(50) if marks[place] and not (place and marks[place - 1])]
    assert first.tolist() == starts
    assert np.array_equal(mark_runs(first, counts, size=50), marks)


def test_expand_counts_up_from_each_first_number():
    assert expand(np.array([10, 3, 7]), np.array([2, 0, 3])).tolist() == [10, 11, 7, 8, 9]
    assert expand(np.empty(0, np.int64), np.empty(0, np.int64)).tolist() == []
    assert [each.tolist() for each in find_runs(np.zeros(0, bool))] == [[], []]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"sequence_length": 1}, "sequence_length must be at least 2 tokens, got 1"),
        ({"group_bytes": 0}, "group_bytes must be at least 1, got 0"),
        ({"method": "best"}, "method must be one_per_document or concatenate or best_fit, got 'best'"),
    ],
)
def test_impossible_packing_rules_are_refused(field, message):
    with pytest.raises(ValueError, match=message):
        PackingRules(**field)
