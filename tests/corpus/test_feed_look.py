"""Errors of tables with a change feed, as people see them. No session."""

import io
import json
from pathlib import Path

import pytest

from pipelines.corpus.feed.land import choose_kind
from pipelines.corpus.feed.read import LostVersionsError, OtherSchemaError, explain_failures
from pipelines.corpus.listing import NoFilesError
from tests.corpus.feeds import FEED, land_now, make_source


def write_log(table: Path, protocol: dict, kind="string") -> None:
    """A table without rows, with a column `text`."""
    schema = {"type": "struct", "fields": [{"name": "text", "type": kind, "nullable": True, "metadata": {}}]}
    metadata = {
        "id": "id",
        "format": {"provider": "parquet", "options": {}},
        "schemaString": json.dumps(schema),
        "partitionColumns": [],
        "configuration": FEED,
    }
    actions = [{"protocol": protocol}, {"metaData": metadata}, {"commitInfo": {"operation": "CREATE TABLE"}}]
    (table / "_delta_log").mkdir(parents=True)
    (table / "_delta_log" / f"{0:020}.json").write_text("\n".join(map(json.dumps, actions)))


PLAIN = {"minReaderVersion": 1, "minWriterVersion": 4}
STRANGE = {
    "minReaderVersion": 3,
    "minWriterVersion": 7,
    "readerFeatures": ["strange"],
    "writerFeatures": ["strange"],
}


@pytest.mark.parametrize(
    ("protocol", "kind", "why"),
    [(STRANGE, "string", "Feature 'strange' is not supported"), (PLAIN, "geography", "type: 'geography'.*")],
)
def test_a_table_that_delta_rs_cannot_read_is_named_with_the_remedy(tmp_path, protocol, kind, why):
    write_log(tmp_path / "table", protocol, kind)
    with pytest.raises(
        ValueError,
        match=rf"^source 's': table .*: its log .*{why}; give options\.table its name in the catalog",
    ):
        land_now(make_source(tmp_path))


def test_a_path_of_another_table_that_delta_rs_cannot_read_is_named(tmp_path):
    write_log(tmp_path / "landed", STRANGE)
    with pytest.raises(ValueError, match=r"^source 's': table .*: the log of .*landed .*a path of its own"):
        land_now(make_source(tmp_path))


def test_a_damaged_log_is_named_with_source_and_table(tmp_path):
    write_log(tmp_path / "table", PLAIN)
    (tmp_path / "table" / "_delta_log" / f"{0:020}.json").write_bytes(b'{"commitInfo": \xff')
    with pytest.raises(ValueError, match=r"^source 's': table .*table: "):
        land_now(make_source(tmp_path))


def make_decode_errors() -> list[ValueError]:
    found: list[ValueError] = []
    for make in (lambda: json.loads("{"), lambda: b"\xff".decode()):
        with pytest.raises(ValueError, match=r"\d") as caught:
            make()
        found.append(caught.value)
    return found


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NoFilesError("no table"), NoFilesError),
        (FileNotFoundError(2, "No such file", "a"), FileNotFoundError),
        (PermissionError(13, "denied"), PermissionError),
        (io.UnsupportedOperation("read"), OSError),
        *((error, ValueError) for error in make_decode_errors()),
    ],
)
def test_an_error_keeps_its_kind_with_a_longer_message(error, kind):
    assert choose_kind(error) is kind
    assert str(choose_kind(error)("longer")) == "longer"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("[FAILED_READ_FILE.FILE_NOT_EXIST] Encountered error while reading file:///t/a.parquet.", "lost"),
        ("[DELTA_CHANGE_DATA_FILE_NOT_FOUND] File _change_data/a.parquet", "lost"),
        ("[DELTA_MISSING_CHANGE_DATA] Error getting change data for range [3 , 4]", "lost"),
        ("[DELTA_CHANGE_DATA_FEED_INCOMPATIBLE_SCHEMA_CHANGE] Retrieving", "other columns"),
        ("java.io.FileNotFoundException: /disk1/blockmgr-1/0c/temp_shuffle_7 (No such file)", None),
        ("[FAILED_READ_FILE.NO_HINT] Encountered error while reading file:///t/a.parquet.", None),
    ],
)
def test_only_files_of_the_table_make_versions_lost(text, kind):
    kinds = {"lost": LostVersionsError, "other columns": OtherSchemaError, None: ArithmeticError}
    with pytest.raises(kinds[kind]), explain_failures():
        raise ArithmeticError(text)
