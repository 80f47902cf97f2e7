"""Tables whose files alone say something else than the table: refused, with the feature and what to do."""

import json
import uuid

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.dataset.pinned_files import list_files, open_pinned
from pipelines.dataset.reader import open_split

PLAIN = {"minReaderVersion": 1, "minWriterVersion": 2}


def with_feature(name: str) -> dict:
    return {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": [name], "writerFeatures": [name]}


def write_table(folder, protocol, *, physical=None, vector=None) -> str:
    """One file of two rows and the log that another program would have written; the table's id."""
    (folder / "_delta_log").mkdir(parents=True)
    name = physical or "sequence_id"
    pq.write_table(pa.table({name: pa.array([0, 1], pa.int64())}), folder / "f.parquet")
    mapped = {"delta.columnMapping.id": 1, "delta.columnMapping.physicalName": name} if physical else {}
    field = {"name": "sequence_id", "type": "long", "nullable": True, "metadata": mapped}
    table_id = str(uuid.uuid4())
    add = {
        "path": "f.parquet",
        "partitionValues": {},
        "size": (folder / "f.parquet").stat().st_size,
        "modificationTime": 0,
        "dataChange": True,
        "stats": json.dumps({"numRecords": 2}),
        **({"deletionVector": vector} if vector else {}),
    }
    metadata = {
        "id": table_id,
        "format": {"provider": "parquet", "options": {}},
        "schemaString": json.dumps({"type": "struct", "fields": [field]}),
        "partitionColumns": [],
        "configuration": {"delta.columnMapping.mode": "name"} if physical else {},
        "createdTime": 0,
    }
    actions = [{"protocol": protocol}, {"metaData": metadata}, {"add": add}]
    log = "\n".join(json.dumps(action) for action in actions)
    (folder / "_delta_log" / f"{0:020d}.json").write_text(log)
    return table_id


@pytest.mark.parametrize(
    ("protocol", "options", "named"),
    [
        (with_feature("deletionVectors"), {}, "reader version 3: deletionVectors"),
        (
            with_feature("deletionVectors"),
            {"vector": {"storageType": "u", "pathOrInlineDv": "x" * 20, "sizeInBytes": 9, "cardinality": 1}},
            "reader version 3: deletionVectors",
        ),
        (with_feature("columnMapping"), {"physical": "col-1"}, "reader version 3: columnMapping"),
        # Written before features had names. delta-rs alone would read a column of nulls.
        (
            {"minReaderVersion": 2, "minWriterVersion": 5},
            {"physical": "col-1"},
            "reader version 2: column mapping",
        ),
        (with_feature("v2Checkpoint"), {}, "reader version 3: v2Checkpoint"),
        (with_feature("quantumRows"), {}, "quantumRows"),
    ],
)
def test_features_that_files_do_not_show_are_refused(tmp_path, protocol, options, named):
    table = tmp_path / "sequences"
    table_id = write_table(table, protocol, **options)
    with pytest.raises(ValueError, match=rf"{named}.*run the stage that writes it again"):
        open_split(str(table), table_id=table_id, version=0, split="train", copies=tmp_path)
    with pytest.raises(ValueError, match=named):
        list_files(str(table), open_pinned(str(table), table_id=table_id, version=0))


def test_plain_table_is_listed(tmp_path):
    table_id = write_table(tmp_path / "t", PLAIN)
    (file,) = list_files(str(tmp_path / "t"), open_pinned(str(tmp_path / "t"), table_id=table_id, version=0))
    assert file.num_rows == 2


def test_a_missing_version_is_not_taken_for_a_feature(tmp_path):
    table_id = write_table(tmp_path / "t", PLAIN)
    with pytest.raises(FileNotFoundError, match="no longer have version 7"):
        open_pinned(str(tmp_path / "t"), table_id=table_id, version=7)
