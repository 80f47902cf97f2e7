"""Members that came or left -> the members whose clusters can change, and the pairs among them. In the
driver's memory, in NumPy and Arrow.

Changed contents are those of new files, whether their documents are members or not: a new copy of a text can
take the place of an earlier member. A bucket has changed if a member with a changed content was or is in it.

- `near`: the changed members, and all others that have a bucket of a changed content. Two members that are
  not both near share no changed bucket. So their common buckets have the same members and leaders as before,
  and they are an edge now if they were one before.
- Affected are the near members and those of each cluster of before that had a near member. An edge of now
  between an affected member and another one, v, would have been an edge before, because v is not near; then v
  was in a cluster of before with a near member, and is affected itself. So a cluster of now is affected as a
  whole, or not at all.
- A cluster of now without affected members has the edges of before, and so the same rows.

Pairs of affected members are formed again, in all of their buckets. A bucket with more members than leaders
also needs its other members: its leaders are the first of all.

The scope of buckets is not looked at until pairs are formed: more members may count as affected than are.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.corpus.neardup.presets import NearDuplicates

Places = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
ROWS = pa.schema(
    [
        *((name, pa.string()) for name in ("doc_id", "source", "file", "split", "content_hash", "order")),
        *((name, pa.int32()) for name in ("num_chars", "task", "slice")),
        ("offset", pa.int64()),
        *((name, pa.string()) for name in ("shard", "duplicate_of", "drop_reason")),
        *((name, pa.bool_()) for name in ("was", "now")),
    ]
)
"""A member of before or now. The first ten columns as in `candidates.MEMBERS`; the next three are those of
the table documents of before, null for a new document."""
SIGNED = pa.schema([("content_hash", pa.string()), ("buckets", pa.list_(pa.int64()))])
CLUSTERED = pa.schema([(name, pa.string()) for name in ("doc_id", "source", "cluster_id", "duplicate_of")])
"""Of NEAR_DUPLICATES."""
MOST_PAIRS = 10_000_000
"""Pairs in buckets, a pair of two buckets twice: 160 MB."""


class SearchAllError(Exception):
    """What a change affects cannot be told, or is too much for the driver: search among all members."""

    num_signed = 0
    """Signatures that were computed before this was known."""


class Lookups(Protocol):
    """What is asked of the tables of before. Raises SearchAllError if an answer is too large."""

    def find_sharing(self, buckets: pa.Array) -> pa.Table:
        """Rows of SIGNED: all contents with one of the buckets, each once."""

    def find_members(self, contents: pa.Array) -> pa.Table:
        """Rows of ROWS: the members of before with one of the contents."""

    def find_named(self, doc_ids: pa.Array) -> pa.Table:
        """Rows of ROWS: the members of before with one of the ids."""

    def find_signatures(self, contents: pa.Array) -> pa.Table:
        """Rows of SIGNED: those of the contents."""

    def find_clusters(self, doc_ids: pa.Array) -> pa.Table:
        """Rows of CLUSTERED: the clusters of before that have one of the documents, as a whole."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairs:
    """Pairs of places of members that share a bucket, in order; of each, the smaller place comes first."""

    one: Places
    other: Places
    num_buckets: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.one)

    def combine(self, num_members: int) -> Places:
        """A number for each pair."""
        return self.one * num_members + self.other


@dataclass(frozen=True, kw_only=True, slots=True)
class Affected:
    """What a change can change."""

    members: pa.Table
    """ROWS in the order of survival: the affected members of before and now, and others of crowded
    buckets."""
    is_affected: Flags
    contents: pa.Array
    """Those that changed."""
    before: Pairs
    """Of affected members, with the members of before."""
    now: Pairs
    clusters: pa.Table
    """Rows of CLUSTERED: the clusters of before that had an affected member."""
    num_crowded: int
    """Crowded buckets now, less those of before."""


def merge_changed(rows: pa.Table) -> pa.Table:
    """ROWS of the changed contents: a member that was one before and is one now has two rows, which become
    one."""
    was, now = (pc.unique(rows.filter(rows[flag])["doc_id"]) for flag in ("was", "now"))
    # Of two rows, the one of before: it has shard and labels. It comes first.
    by_age = rows.sort_by([("was", "descending")])
    firsts = np.unique(by_age["doc_id"].to_numpy(zero_copy_only=False).astype(str), return_index=True)[1]
    merged = by_age.take(pa.array(firsts))
    for name, ids in (("was", was), ("now", now)):
        at = merged.schema.get_field_index(name)
        merged = merged.set_column(at, name, pc.is_in(merged["doc_id"], value_set=_flat(ids)))
    return merged.select(ROWS.names).cast(ROWS)


def find_affected(
    changed: pa.Table, signatures: pa.Table, tables: Lookups, settings: NearDuplicates
) -> Affected:
    """What the change of these members affects. `changed` are ROWS: all members of before and of now whose
    contents new files have. `signatures` are theirs (SIGNED).

    Raises SearchAllError if a member of before is missing in a table, and as `tables` does.
    """
    members, known, clusters = _reach(changed, signatures, tables)
    affected, buckets = _flat(members["content_hash"]), _list_buckets(known)
    others = tables.find_sharing(_subtract(buckets, _list_buckets(signatures)))
    is_known = pc.is_in(others["content_hash"], value_set=_flat(known["content_hash"]))
    known = pa.concat_tables([known, others.filter(pc.invert(is_known))])
    # A bucket of no more contents than leaders has all of its pairs, whoever its other members are.
    crowding = _find_crowding(known, buckets, settings.max_leaders)
    leaders = tables.find_members(_subtract(crowding, affected))
    every = pa.concat_tables([members, leaders]).sort_by("order")
    is_affected = _mask(pc.is_in(every["content_hash"], value_set=affected))
    owners, keys = _spread(every, known, buckets, settings.scope)
    pairs, num_crowded = [], []
    for flag in ("was", "now"):
        is_there = _mask(every[flag])[owners]
        grouped = _group(owners[is_there], keys[is_there])
        pairs.append(_pair(grouped, is_affected, settings.max_leaders))
        num_crowded.append(int(np.count_nonzero(grouped.place == settings.max_leaders)))
    return Affected(
        members=every,
        is_affected=is_affected,
        contents=_flat(pc.unique(changed["content_hash"])),
        before=pairs[0],
        now=pairs[1],
        clusters=clusters,
        num_crowded=num_crowded[1] - num_crowded[0],
    )


def _reach(changed: pa.Table, signatures: pa.Table, tables: Lookups) -> tuple[pa.Table, pa.Table, pa.Table]:
    """(the affected members, signatures of their contents and perhaps of others, their clusters of before)"""
    near = tables.find_sharing(_list_buckets(signatures))
    more = _subtract(near["content_hash"], _flat(changed["content_hash"]))
    members = [changed, tables.find_members(more)]
    signed = [signatures, near.filter(pc.is_in(near["content_hash"], value_set=more))]
    were = pa.concat_tables(members)
    were = _flat(were.filter(were["was"])["doc_id"])
    clusters = tables.find_clusters(were)
    if len(linked := _subtract(clusters["doc_id"], were)):
        found = tables.find_named(linked)
        if found.num_rows != len(linked):
            raise SearchAllError("the evidence of before names documents that are no members")
        members.append(found)
        signed.append(tables.find_signatures(_flat(found["content_hash"])))
    return pa.concat_tables(members), pa.concat_tables(signed), clusters


@dataclass(frozen=True, slots=True)
class _Grouped:
    """One row per bucket and member of it, sorted by both."""

    member: Places
    start: Places
    """The row of the first member of the bucket."""
    place: Places
    """Of the member in its bucket, from 0."""


def _group(owners: Places, keys: Places) -> _Grouped:
    """`owners` ascend."""
    by_key = np.argsort(keys, kind="stable")  # in each bucket, the order of survival stays
    keys = keys[by_key]
    is_first = np.append(True, keys[1:] != keys[:-1])[: len(keys)]
    starts = np.flatnonzero(is_first)[np.cumsum(is_first) - 1]
    return _Grouped(owners[by_key], starts, np.arange(len(keys)) - starts)


def _pair(grouped: _Grouped, is_asked: Flags, max_leaders: int) -> Pairs:
    """The pairs of a leader of a bucket and a later member of it, both asked for."""
    found, num_members = [np.empty(0, np.int64)], len(is_asked)
    rows, left = np.flatnonzero(is_asked[grouped.member]), MOST_PAIRS
    for place in range(max_leaders):
        rows = rows[grouped.place[rows] > place]
        if not len(rows):
            break
        leaders = grouped.member[grouped.start[rows] + place]
        is_found = is_asked[leaders]
        found.append(leaders[is_found] * num_members + grouped.member[rows[is_found]])
        left -= len(found[-1])
        if left < 0:
            raise SearchAllError(f"buckets that may change have more than {MOST_PAIRS:,} pairs")
    keys, counts = np.unique(np.concatenate(found), return_counts=True)
    return Pairs(
        one=keys // max(num_members, 1), other=keys % max(num_members, 1), num_buckets=counts.astype(np.int32)
    )


def _spread(members: pa.Table, signatures: pa.Table, buckets: pa.Array, scope: str) -> tuple[Places, Places]:
    """(place of the member, number of its bucket within the scope) of each member and bucket asked for."""
    places = pc.index_in(members["content_hash"], value_set=_flat(signatures["content_hash"]))
    if places.null_count:
        raise SearchAllError("a text of before has no signature")
    lists = signatures["buckets"].combine_chunks().take(places.combine_chunks())
    owners = np.repeat(np.arange(members.num_rows), _numbers(pc.list_value_length(lists)))
    found = pc.index_in(lists.flatten(), value_set=buckets)
    is_asked = _mask(found.is_valid())
    owners, keys = owners[is_asked], _numbers(found.drop_null())
    names = {"corpus": (), "source": ("source",), "file": ("source", "file")}[scope]
    for name in names:
        codes = _numbers(members[name].combine_chunks().dictionary_encode().indices)
        keys = keys * (int(codes.max(initial=0)) + 1) + codes[owners]
    return owners, keys


def _find_crowding(signatures: pa.Table, buckets: pa.Array, max_leaders: int) -> pa.Array:
    """The contents that have one of those of the buckets that more contents than `max_leaders` have."""
    lists = signatures["buckets"].combine_chunks()
    owners = np.repeat(np.arange(signatures.num_rows), _numbers(pc.list_value_length(lists)))
    found = pc.index_in(lists.flatten(), value_set=buckets)
    is_asked = _mask(found.is_valid())
    owners, keys = owners[is_asked], _numbers(found.drop_null())
    counts = np.bincount(keys, minlength=len(buckets))
    return _flat(signatures["content_hash"]).take(pa.array(np.unique(owners[counts[keys] > max_leaders])))


def _list_buckets(signatures: pa.Table) -> pa.Array:
    return pc.unique(signatures["buckets"].combine_chunks().flatten())


def _subtract(values: pa.Array | pa.ChunkedArray, others: pa.Array) -> pa.Array:
    """The different values that are not among the others."""
    found = pc.unique(_flat(values))
    return found.filter(pc.invert(pc.is_in(found, value_set=others)))


def _flat(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def _mask(values: pa.Array | pa.ChunkedArray) -> Flags:
    return np.asarray(_flat(values).to_numpy(zero_copy_only=False), bool)


def _numbers(values: pa.Array | pa.ChunkedArray) -> Places:
    return np.asarray(_flat(values).to_numpy(zero_copy_only=False), np.int64)
