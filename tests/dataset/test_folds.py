"""Folds of train by document: every document is held out once, and never trained on meanwhile."""

import numpy as np
import pyarrow as pa
import pytest

from pipelines.dataset.folds import (
    RowDocuments,
    _read_documents,
    assign_folds,
    find_fold,
    fold_rows,
    read_folds,
    write_folds,
)
from pipelines.storage import Folder
from tests.sequence_tables import make_rows as make_table_rows
from tests.sequence_tables import name_document, write_sequences_table


def make_rows(documents):
    """`documents`: those of each sequence, in the order of sequence_id; the lines come in another order."""
    lines = [(row, name) for row, names in enumerate(documents) for name in names][::-1]
    ids = np.array([7 * row for row, _ in lines])
    return RowDocuments(ids, pa.array([name for _, name in lines], pa.large_string()))


def draw_documents(num_rows, random):
    """Some sequences share documents with others, in chains."""
    names = [name_document("train", number) for number in range(num_rows)]
    return [
        [names[number], *([names[random.integers(0, num_rows)]] if random.random() < 0.2 else [])]
        for number in range(num_rows)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_each_document_is_held_out_once_and_never_trained_on_meanwhile(seed):
    documents = draw_documents(200, np.random.default_rng(seed))
    folds = fold_rows(make_rows(documents), num_folds=4, seed=seed)
    assert set(folds.tolist()) == {0, 1, 2, 3}
    held = [{name for row in np.flatnonzero(folds == k) for name in documents[row]} for k in range(4)]
    assert sum(map(len, held)) == len(set().union(*held)) == 200
    assert any(len(names) > 1 for names in documents)  # documents were chained at all


def test_the_fold_of_a_document_depends_on_its_key_and_the_seed_alone():
    names = [name_document("train", number) for number in range(400)]
    whole = fold_rows(make_rows([[name] for name in names]), num_folds=5, seed=1)
    part = fold_rows(make_rows([[name] for name in names[100:]]), num_folds=5, seed=1)
    assert (
        whole[100:].tolist()
        == part.tolist()
        == [find_fold(each, num_folds=5, seed=1) for each in names[100:]]
    )
    other = fold_rows(make_rows([[name] for name in names]), num_folds=5, seed=2)
    assert 0.7 < np.mean(whole != other) < 0.9  # 4 of 5 go elsewhere
    assert np.bincount(whole).min() > 50  # 80 expected, standard deviation 8


def test_a_chain_of_documents_goes_where_its_smallest_one_goes():
    a, b, c, alone = sorted(name_document("train", number) for number in range(4))
    folds = fold_rows(make_rows([[c, b], [alone], [b, a], [a]]), num_folds=50, seed=0)
    first, own = (find_fold(name, num_folds=50, seed=0) for name in (a, alone))
    assert folds.tolist() == [first, own, first, first]
    assert first != own


@pytest.fixture
def pinned(tmp_path):
    """Train and validation, with up to three documents in a row, in several files whose rows were moved."""
    splits = {name: make_table_rows(name, 60, num_groups=4) for name in ("train", "validation")}
    path = str(tmp_path / "sequences")
    return splits, write_sequences_table(path, splits, shuffled=True)


def test_folds_of_a_table_are_in_the_order_of_its_rows(pinned):
    splits, table = pinned
    folds = assign_folds(table.path, table_id=table.table_id, version=table.version, num_folds=3, seed=0)
    rows = sorted(splits["train"], key=lambda row: row["sequence_id"])
    expected = [min(segment["doc_id"] for segment in row["segments"]) for row in rows]
    assert len({segment["doc_id"] for row in rows for segment in row["segments"]}) == 60
    assert folds.tolist() == [find_fold(name, num_folds=3, seed=0) for name in expected]


def test_ids_of_documents_may_have_more_than_2_gib(pinned):
    _, table = pinned
    found = _read_documents(table.path, table.table_id, table.version, "train")
    assert found.doc_ids.type == pa.large_string()  # of others, offsets have 32 bits


def test_a_fold_without_sequences_is_refused(pinned):
    _, table = pinned
    with pytest.raises(
        ValueError, match=r"num_folds is 40, but fold \d+ has no sequence: .* has 21 sequences"
    ):
        assign_folds(table.path, table_id=table.table_id, version=table.version, num_folds=40, seed=0)


def test_a_file_of_folds_belongs_to_one_number_of_rows(tmp_path):
    write_folds(Folder(str(tmp_path)), "folds.npy", np.array([0, 1, 1], np.uint8))
    assert read_folds(f"{tmp_path}/folds.npy", 3).tolist() == [0, 1, 1]
    with pytest.raises(ValueError, match="has folds of 3 sequences, and the split has 4; delete it"):
        read_folds(f"{tmp_path}/folds.npy", 4)
