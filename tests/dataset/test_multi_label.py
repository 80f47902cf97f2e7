"""Sets of labels in the dataset stage: class numbers, rows, the classes of a table, copies, the report."""

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from pyspark.sql.pandas.types import to_arrow_schema

from pipelines.dataset import labels as dataset_labels
from pipelines.dataset.copying import copy_split
from pipelines.dataset.examples.example import Document, ExampleSettings
from pipelines.dataset.examples.multi_label_classification import MultiLabelClassificationExamples
from pipelines.dataset.forecast import _name_classes
from pipelines.dataset.labels import list_labels
from pipelines.dataset.packing.one_per_document import pack_one_per_document
from pipelines.dataset.packing.packed import join_rows
from pipelines.dataset.reader import SequenceReader
from pipelines.dataset.rows import LABEL_SET
from pipelines.delta import ContractError
from tests.finetune.data import make_tokenizer
from tests.sequence_tables import SCHEMA, make_rows

LABELS = ("a", "b", "退款")


def build_examples(*labels):
    builder = MultiLabelClassificationExamples(make_tokenizer(), ExampleSettings(labels=LABELS, max_tokens=3))
    documents = [Document(str(number), "w5 w6 w7 w8", label) for number, label in enumerate(labels)]
    return list(builder.build(documents))


def test_a_set_becomes_class_numbers_in_their_order():
    examples = build_examples('["b","退款"]', "[]", '["退款","a"]', None)
    assert [example.label for example in examples] == [(1, 2), (), (0, 2), None]
    assert [example.units[0].input_ids.tolist() for example in examples] == [[5, 6, 7]] * 4
    assert [example.num_cut_tokens for example in examples] == [1] * 4
    with pytest.raises(ValueError, match="label 'a' is no JSON array of names"):
        build_examples("a")


def test_a_row_counts_one_target_for_a_set_also_for_an_empty_one():
    rows = join_rows(list(pack_one_per_document(build_examples('["b","退款"]', "[]"), length=8)))
    assert (rows.labels, rows.label_sets) == ([None, None], [(1, 2), ()])
    assert rows.num_targets.tolist() == [1, 1]
    assert rows.num_bytes.tolist() == [8, 8]  # of the three tokens that are left


def test_sets_are_copied_from_files_by_id(tmp_path):
    rows = [row for row in make_rows("train", 12, num_groups=1, per_row=1) if len(row["segments"]) == 1]
    sets = [[], [2], [0, 1], [0, 1, 2]]
    for number, row in enumerate(rows):
        row |= {"sequence_id": number, "targets": [], "num_targets": 1, "labels": sets[number % 4]}
    assert len(rows) > 6
    schema = to_arrow_schema(SCHEMA)
    (tmp_path / "files").mkdir()
    for number, part in enumerate((rows[::2], rows[1::2])):
        pq.write_table(pa.Table.from_pylist(part, schema=schema), tmp_path / "files" / f"{number}.parquet")
    (tmp_path / "copy").mkdir()
    copy_split(pads.dataset(tmp_path / "files"), "train", tmp_path / "copy")
    found = SequenceReader(tmp_path / "copy").rows(np.arange(len(rows))[::-1])
    assert [each.tolist() for each in found.label_sets] == [row["labels"] for row in rows[::-1]]
    assert found.labels.tolist() == [LABEL_SET] * len(rows)


def labels_of(spark, *labels, are_sets=True):
    return list_labels(spark.createDataFrame([(each,) for each in labels], "label string"), are_sets=are_sets)


def test_classes_are_the_names_in_all_sets(spark, monkeypatch):
    assert labels_of(spark, '["b","退款"]', "[]", '["b"]', '["a"]') == LABELS
    assert labels_of(spark, '["a"]', "[]") == ("a",)  # one question is enough
    assert labels_of(spark, '["b"]', "a", are_sets=False) == ('["b"]', "a")
    monkeypatch.setattr(dataset_labels, "MAX_LABELS", 3)
    with pytest.raises(ContractError, match="more than 3 different labels"):
        labels_of(spark, '["a","b"]', '["c","d"]')


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (['["a"]', None, None], r"2 kept rows have no label, .* set of labels .*\.fields\.labels"),
        (
            ['["a"]', "plain"],
            r"the label of 1 kept rows is no JSON array of names, .* instead of fields\.label",
        ),
        (['["a"]', "[null]", '["b",""]', '["b",null]'], "the label of 3 kept rows is no JSON array of names"),
        (["[]", "[]"], r"at least 1 different labels, got \[\]"),
    ],
)
def test_labels_that_are_no_sets_are_refused(spark, labels, message):
    with pytest.raises(ContractError, match=message):
        labels_of(spark, *labels)


def test_a_forecast_names_classes_as_the_build_does():
    assert _name_classes({'["b","退款"]', "[]", '["a"]'}, are_sets=True) == list(LABELS)
    assert _name_classes({"b", "a"}, are_sets=False) == ["a", "b"]
    assert _name_classes({"b", None}, are_sets=True) == ["None", "b"]  # other ones than before: a full build
