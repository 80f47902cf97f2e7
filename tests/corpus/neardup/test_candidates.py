"""Order of survivors, and which documents share a bucket."""

from collections import defaultdict

import pytest
from pyspark.sql import functions as F

from pipelines.corpus.neardup.candidates import is_removable, order_rows, rank_members, spread_buckets
from pipelines.corpus.neardup.presets import NearDuplicates


def number_id(name):
    """A doc_id that sorts as the letter does."""
    return f"{ord(name):02x}" + 30 * "0"


MEMBERS = "doc_id STRING, source STRING, file STRING, split STRING, num_chars INT, content_hash STRING"


@pytest.mark.parametrize(
    ("survivor", "order"), [("longest", "pq xba dc"), ("shortest", "qp xab cd"), ("smallest_id", "pq xab cd")]
)
def test_survivors_are_ordered_by_protection_split_and_policy(spark, survivor, order):
    rows = [(name, "s", "f", "train", length, name) for name, length in zip("cd", (8, 9), strict=True)]
    rows += [(name, "s", "f", "validation", length, name) for name, length in zip("ab", (5, 6), strict=True)]
    rows += [("p", "old", "f", "train", 3, "p"), ("q", "old", "f", "train", 2, "q")]
    rows += [("x", "s", "f", "test", 1, "x")]
    members = spark.createDataFrame([(number_id(row[0]), *row[1:]) for row in rows], MEMBERS)
    settings = NearDuplicates(survivor=survivor, protected_sources=("old",))
    ranked = rank_members(members, settings).withColumn("removable", is_removable(F.col("order")))
    found = ranked.orderBy("order").collect()
    assert "".join(row.content_hash for row in found) == order.replace(" ", "")
    by_number = sorted(found, key=lambda row: (row.rank, row.vertex))
    assert [row.doc_id for row in by_number] == [row.doc_id for row in found]
    assert {row.content_hash for row in found if not row.removable} == {"p", "q", "x"}
    assert [row.order[20:] for row in found] == [row.doc_id for row in found]
    # The driver gives its rows the same order.
    assert order_rows(members.toArrow(), settings).to_pylist() == [row.order for row in ranked.collect()]


@pytest.mark.parametrize(("scope", "groups"), [("corpus", "abcd"), ("source", "abc d"), ("file", "ab c d")])
def test_scope_limits_what_shares_a_bucket(spark, scope, groups):
    places = {"a": ("s", "f"), "b": ("s", "f"), "c": ("s", "g"), "d": ("t", "f")}
    rows = [(number_id(name), *place, "train", 1, name) for name, place in places.items()]
    settings = NearDuplicates(scope=scope)
    members = rank_members(spark.createDataFrame(rows, MEMBERS), settings)
    signed = [(name, [7, 8]) for name in places]
    signatures = spark.createDataFrame(signed, "content_hash STRING, buckets ARRAY<BIGINT>")
    shared = defaultdict(list)
    for row in spread_buckets(members, signatures, settings).collect():
        shared[row.bucket].append(chr(row.vertex >> 52))
    assert sorted("".join(sorted(names)) for names in shared.values()) == sorted(2 * groups.split())
