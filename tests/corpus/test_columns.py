"""Columns that are written a second time, for code that must run without a JVM or with other columns beside
them, have the types of the table that owns them."""

import pyarrow as pa
import pytest

from pipelines.corpus import increment
from pipelines.corpus.ledger import ENTRIES
from pipelines.corpus.measure import MEASURES
from pipelines.corpus.neardup import grown, outcome, similar, stored
from pipelines.corpus.neardup.affected import CLUSTERED, ROWS, SIGNED
from pipelines.corpus.neardup.candidates import MEMBERS
from pipelines.corpus.readers.rows import DOCUMENT_ROWS, POSITIONS
from pipelines.corpus.readers.slices import LABELS
from pipelines.schema import arrow_schema
from pipelines.tables import DOCUMENTS, LEDGER, NEAR_DUPLICATES, QUARANTINE, SIGNALS, SIGNATURES, SIMILARITIES

OF_DOCUMENTS = """source file offset doc_id text label split parts metadata content_hash num_chars num_bytes
                  duplicate_of"""

pytestmark = pytest.mark.usefixtures("spark")  # the JVM parses the DDL of the tables


def types_of(columns):
    schema = columns if isinstance(columns, pa.Schema) else arrow_schema(columns)
    # Without NOT NULL: rows on their way may lack what a table requires.
    return {
        field.name: str(field.type).replace("element:", "item:").replace(" not null", "") for field in schema
    }


@pytest.mark.parametrize(
    ("columns", "table", "shared"),
    [
        (ENTRIES, LEDGER, "source file size modified_ns"),
        (DOCUMENT_ROWS, DOCUMENTS, OF_DOCUMENTS),
        (POSITIONS, QUARANTINE, "source file offset line reason raw"),
        # num_bytes of a position is that of the record.
        (POSITIONS, DOCUMENTS, "source file offset doc_id content_hash num_chars split"),
        (LABELS, DOCUMENTS, "offset duplicate_of"),
        (MEASURES, SIGNALS, "language language_score"),
        (ROWS, MEMBERS, "doc_id source file split content_hash order num_chars task slice offset"),
        (ROWS, DOCUMENTS, "doc_id source file split content_hash num_chars offset duplicate_of drop_reason"),
        (SIGNED, SIGNATURES, "content_hash buckets"),
        (CLUSTERED, NEAR_DUPLICATES, "doc_id source cluster_id duplicate_of"),
        (stored._SIGNED, SIGNATURES, "content_hash num_shingles buckets"),
        (stored._BUCKETS, SIGNATURES, "content_hash buckets"),
        (similar._COMPARED, SIMILARITIES, "first second jaccard"),
        (increment.HELD, DOCUMENTS, " ".join(increment.HELD.names)),
        (similar._SIMILAR, SIMILARITIES, "first second jaccard"),
        (outcome.REMOVED_DDL, MEMBERS, "doc_id source file split num_chars content_hash task slice offset"),
        (
            grown._REVISITED_DDL,
            DOCUMENTS,
            "doc_id source file offset content_hash num_chars split duplicate_of drop_reason",
        ),
    ],
)
def test_a_column_that_is_written_again_has_the_type_of_its_table(columns, table, shared):
    again, owned = types_of(columns), types_of(table.ddl)
    names = shared.split()
    assert {name: again[name] for name in names} == {name: owned[name] for name in names}
    # No column of that name is left out but the one that means something else.
    other = {"num_bytes"} if columns is POSITIONS and table is DOCUMENTS else set()
    assert set(again) & set(owned) == {*names, *other}


def test_the_ledger_has_the_columns_of_its_entries_and_a_time():
    assert [*ENTRIES.names, *LEDGER.volatile] == LEDGER.schema.names


def test_rows_of_members_begin_with_the_columns_of_members():
    # What depends on the other members of a search is left out.
    assert {*ROWS.names[:10]} == {*MEMBERS.schema.names} - {"vertex", "rank"}


def test_a_document_is_read_with_all_columns_but_the_verdict():
    read = set(arrow_schema(DOCUMENT_ROWS).names)
    assert set(DOCUMENTS.schema.names) - read == {"drop_reason"}
