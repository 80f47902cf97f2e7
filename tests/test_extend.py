"""Writes that add rows to those of an earlier commit, and take out shards."""

import pytest

from pipelines.change import Replaced
from pipelines.digest import Totals
from pipelines.pin import open_log, pin
from pipelines.tables import QUARANTINE
from tests.small_tables import broken_rows


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "quarantine")


def write(spark, path, offsets, made_from="a"):
    return QUARANTINE.overwrite(broken_rows(spark, offsets), path, fingerprint=made_from, facts={})


def extend(spark, path, offsets, base="a", made_from="b", reason="r", **knobs):
    with QUARANTINE.hold(broken_rows(spark, offsets, reason=reason), path) as held:
        return QUARANTINE.extend(held, path, base=base, fingerprint=made_from, facts={"n": 1}, **knobs)


def read(spark, path):
    rows = QUARANTINE.read(spark, path)
    return sorted((row.offset, row.reason) for row in rows.collect()), QUARANTINE.digest(rows)


def test_an_extended_table_has_the_digest_of_all_rows(spark, path):
    write(spark, path, range(3))
    found = extend(spark, path, range(3, 5))
    assert read(spark, path) == ([(n, "r") for n in range(5)], (found.digest, 5))
    assert (found.num_rows, found.fingerprint, found.facts, found.version) == (5, "b", {"n": 1}, 2)
    assert extend(spark, path, range(3, 5)) == found == pin(path)
    empty = extend(spark, path, [], base="b", made_from="c")
    assert (empty.digest, empty.num_rows) == (found.digest, 5)


def test_replaced_shards_leave_with_their_rows(spark, path):
    write(spark, path, range(2))
    shards = tuple(open_log(path).list_shards())
    _, (_, num_rows) = read(spark, path)
    before = Totals.decode(open_log(path).read_totals(pin(path).version))
    replaced = Replaced(shards=shards, totals=before)
    found = extend(spark, path, range(3), reason="new", replaced=replaced)
    assert read(spark, path) == ([(n, "new") for n in range(3)], (found.digest, 3))
    assert QUARANTINE.read(spark, path, 1).count() == num_rows == 2  # the version before is still there


def test_rows_that_moved_to_other_files_are_not_doubled(spark, path):
    write(spark, path, range(2))
    extend(spark, path, range(2, 4))
    shards = tuple(open_log(path).list_shards())
    replaced = Replaced(shards=shards, totals=Totals.decode(open_log(path).read_totals(2)))
    spark.sql(f"OPTIMIZE delta.`{path}`")
    with pytest.raises(RuntimeError, match="another writer changed the rows meanwhile"):
        extend(spark, path, range(9), base="b", made_from="c", replaced=replaced)
    assert len(read(spark, path)[0]) == 4


def test_rows_of_a_run_that_was_given_up_go(spark, path):
    write(spark, path, range(2))
    extend(spark, path, [5], made_from="given up")
    with pytest.raises(RuntimeError, match="another writer changed the rows meanwhile"):
        extend(spark, path, [7], replaced=Replaced())  # rows that depend on those that were there
    found = extend(spark, path, [7])
    assert read(spark, path) == ([(0, "r"), (1, "r"), (7, "r")], (found.digest, 3))


def test_a_table_without_the_base_is_not_extended(spark, path):
    with pytest.raises(LookupError, match="no version that can be extended; delete the table"):
        extend(spark, path, [1])
    write(spark, path, range(2), made_from="other")
    with pytest.raises(LookupError, match="no version that can be extended"):
        extend(spark, path, [1])
    assert len(read(spark, path)[0]) == 2
