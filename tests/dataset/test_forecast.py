"""What a dry run says of the next build, on tables that were written without a JVM. test_increment.py
compares what was foreseen with every build."""

import hashlib
import json
from types import SimpleNamespace

import pyarrow as pa
import pytest
from deltalake import CommitProperties, Transaction, write_deltalake

from pipelines.dataset import forecast
from pipelines.dataset.earlier import Inputs
from pipelines.dataset.forecast import forecast_build
from pipelines.dataset.layout import DOCUMENT_BYTES, POSITION_BITS, lay_out_groups
from pipelines.dataset.packing.rules import PackingRules
from pipelines.dataset.tokenizer_choice import TokenizerChoice
from pipelines.pin import pin, transaction_name, version_of

GROUP_BYTES, TEXT_BYTES = 6_000, 100
"""A file from 1,500 bytes (3 documents) has a group of its own, from 8,486 bytes (14 documents) two."""
SIZE = TEXT_BYTES + DOCUMENT_BYTES


def commit(path, rows, facts=None):
    """Rows as a stage commits them."""
    version = 1 + version_of(path)
    record = {"table": "rows", "digest": "d", "num_rows": rows.num_rows, "fingerprint": f"{path} {version}"}
    record |= {"facts": facts or {}, "last_foreign": -1}
    properties = CommitProperties(
        custom_metadata={"userMetadata": json.dumps({"distributary": record})},
        app_transactions=[Transaction(transaction_name(record["fingerprint"]), version)],
    )
    write_deltalake(path, rows, mode="append", commit_properties=properties)


def make_documents(source, file, numbers, *, label="ab", drop_reason=None):
    names = [hashlib.sha256(f"{source} {file} {number}".encode()).hexdigest()[:32] for number in numbers]
    size = len(names)
    return pa.table(
        {
            "doc_id": names,
            "source": [source] * size,
            "file": [file] * size,
            "num_bytes": pa.array([TEXT_BYTES] * size, pa.int32()),
            "drop_reason": pa.array([drop_reason] * size, pa.string()),
            "split": ["train"] * size,
            "content_hash": names,
            "label": [label[number % len(label)] for number in numbers],
        }
    )


@pytest.fixture
def lake(tmp_path):
    """12 documents of web/a, 2 of web/b, 2 of books/c: one group each; sequences of all of them."""
    documents, sequences = str(tmp_path / "documents"), str(tmp_path / "sequences")
    files = [("web", "a", 12), ("web", "b", 2), ("books", "c", 2)]
    commit(documents, pa.concat_tables([make_documents(*name, range(size)) for *name, size in files]))
    sizes = {("web", "a"): 12 * SIZE, ("web", None): 2 * SIZE, ("books", None): 2 * SIZE}
    groups = lay_out_groups(sizes, GROUP_BYTES).groups
    assert len(groups) == 3
    facts = {"settings": "s", "documents": pin(documents).identity(), "tokenizer": "t", "labels": ["a", "b"]}
    for group in groups:
        commit(sequences, pa.table({"sequence_id": pa.array([group << POSITION_BITS], pa.int64())}), facts)
    build = SimpleNamespace(
        task="classification",
        tokenizer=TokenizerChoice(base="any"),
        packing=PackingRules(sequence_length=32, group_bytes=GROUP_BYTES),
        sequences=sequences,
        tokenizers=str(tmp_path),
    )

    def foresee(settings="s"):
        return forecast_build(Inputs(pin(documents), settings), build)["groups"]

    return SimpleNamespace(
        add=lambda *name, **given: commit(documents, make_documents(*name, **given)), foresee=foresee
    )


def test_nothing_changed(lake):
    assert lake.foresee() == "0 of 3 will be built again; files of the documents: 0 new, 0 gone"


def test_a_large_file_makes_groups_of_its_own(lake):
    lake.add("web", "d", range(10))
    assert lake.foresee() == "1 of 4 will be built again; files of the documents: 1 new, 0 gone"


def test_a_file_that_has_grown_is_divided_again(lake):
    lake.add("web", "a", range(12, 14))
    assert lake.foresee().startswith("2 of 4 ")


def test_documents_of_a_small_file_join_a_shared_group(lake):
    lake.add("books", "e", range(2))
    assert lake.foresee().startswith("1 of 3 ")


def test_a_file_leaves_its_shared_group(lake):
    lake.add("web", "b", range(2, 4))  # 4 documents: a group of its own, and the shared one is gone
    assert lake.foresee().startswith("2 of 3 ")


def test_dropped_documents_are_in_no_group(lake):
    lake.add("web", "d", range(10), drop_reason="too_short")
    assert lake.foresee() == "0 of 3 will be built again; files of the documents: 1 new, 0 gone"


def test_a_new_class_builds_all(lake):
    lake.add("web", "d", range(2), label="ac")
    assert lake.foresee() == (
        "all will be built, because there are other classes than before, and classes are numbered"
    )


def test_other_settings_build_all(lake):
    assert lake.foresee("other").startswith(
        "all will be built, because task, tokenizer or packing are not th"
    )


def test_many_documents_are_not_counted_before_the_build(lake, monkeypatch):
    lake.add("web", "d", range(10))
    monkeypatch.setattr(forecast, "MAX_CHANGED", 10)
    assert lake.foresee().startswith("1 of 4 ")
    monkeypatch.setattr(forecast, "MAX_CHANGED", 9)
    assert lake.foresee() == (
        "some will be built again; files of the documents: 1 new, 0 gone; the build will count the groups, "
        "because more than 9 documents are in them"
    )
