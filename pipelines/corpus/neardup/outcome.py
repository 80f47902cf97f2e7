"""Similarities of affected pairs -> what a change makes of labels, evidence and facts. On the driver.

The facts are those of a search among all members: the ones of before, less what the affected members were,
plus what they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.corpus.neardup.affected import Affected, Places
from pipelines.corpus.neardup.candidates import ORDER_DIGITS, keep_removable
from pipelines.corpus.neardup.graph import choose_best, find_components, find_removed
from pipelines.corpus.neardup.presets import NEAR_DUPLICATE

REMOVED = (
    *("doc_id", "source", "file", "split", "num_chars", "content_hash", "task", "slice", "offset"),
    *("duplicate_of", "failed_rule"),
)
REMOVED_DDL = """doc_id STRING, source STRING, file STRING, split STRING, num_chars INT, content_hash STRING,
task INT, slice INT, offset BIGINT, duplicate_of STRING, failed_rule STRING"""
FACTS = ("pairs", "near_pairs", "crowded_buckets", "clusters")
"""Of a search among all members."""
_LABELLED = (
    *("doc_id", "source", "file", "offset", "content_hash", "num_chars"),
    *("split", "duplicate_of", "drop_reason", "shard"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class AskedPairs:
    """Pairs of before and of now, whose similarity is needed."""

    keys: Places
    """The numbers of the pairs, ascending."""
    contents: pa.Table
    """first and second, as in SIMILARITIES; each pair of contents once."""
    places: Places
    """Of each key, the row of `contents`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What becomes of the affected members."""

    removed: pa.Table
    """Columns REMOVED: the members that are removed."""
    evidence: pa.Table
    """Rows of NEAR_DUPLICATES of their clusters."""
    replaced: pa.Array
    """Ids of the clusters of before that these rows stand for."""
    revisited: pa.Table
    """Documents of before with another content than the changed ones that were removed or are now, with
    their labels of before."""
    facts: dict[str, Any]


def ask_pairs(affected: Affected) -> AskedPairs:
    """The pairs to compare, those of before too: how many of them were near duplicates is a fact."""
    num_members = affected.members.num_rows
    keys = np.union1d(affected.before.combine(num_members), affected.now.combine(num_members))
    # A member of before and the one that takes its place have one content: one pair of contents may be two.
    hashes = affected.members["content_hash"].combine_chunks().dictionary_encode()
    codes = np.asarray(hashes.indices.to_numpy(), np.int64)
    ones, others = codes[keys // max(num_members, 1)], codes[keys % max(num_members, 1)]
    num_codes = max(len(hashes.dictionary), 1)
    pairs, places = np.unique(
        np.minimum(ones, others) * num_codes + np.maximum(ones, others), return_inverse=True
    )
    ends = [hashes.dictionary.take(pa.array(part)) for part in (pairs // num_codes, pairs % num_codes)]
    contents = {"first": pc.min_element_wise(*ends), "second": pc.max_element_wise(*ends)}
    return AskedPairs(keys=keys, contents=pa.table(contents), places=places)


def decide(
    affected: Affected,
    asked: AskedPairs,
    jaccards: npt.NDArray[np.float64],
    min_jaccard: float,
    facts: Mapping[str, Any],
) -> Outcome:
    """What becomes of the affected members. `jaccards` are of the rows of `asked.contents`; `facts` are those
    of the search of before."""
    similarity = jaccards[asked.places]
    edges, num_now = _select_edges(affected, asked, similarity, min_jaccard)
    removals, clusters = keep_removable(edges), find_components(edges)
    survivors = choose_best(removals, find_removed(removals))
    members = affected.members
    removed = select_removed(members, survivors)
    were = affected.before.combine(members.num_rows)
    num_before = int(np.count_nonzero(similarity[np.searchsorted(asked.keys, were)] >= min_jaccard))
    replaced = pc.unique(affected.clusters["cluster_id"])
    more = {
        "pairs": len(affected.now) - len(affected.before),
        "near_pairs": num_now - num_before,
        "crowded_buckets": affected.num_crowded,
        "clusters": len(clusters["cluster"].unique()) - len(replaced),
    }
    return Outcome(
        removed=removed,
        evidence=describe_clusters(members, clusters, survivors),
        replaced=replaced,
        revisited=_find_revisited(affected, removed),
        facts={name: facts[name] + number for name, number in more.items()},
    )


def _select_edges(
    affected: Affected, asked: AskedPairs, similarity: npt.NDArray[np.float64], min_jaccard: float
) -> tuple[pa.Table, int]:
    """(a, b, jaccard, num_buckets of the pairs of now that are near duplicates; their number)"""
    found = similarity[np.searchsorted(asked.keys, affected.now.combine(affected.members.num_rows))]
    is_near = found >= min_jaccard
    order = affected.members["order"].combine_chunks()
    columns = {
        "a": order.take(pa.array(affected.now.one[is_near])),
        "b": order.take(pa.array(affected.now.other[is_near])),
        "jaccard": pa.array(found[is_near], pa.float64()),
        "num_buckets": pa.array(affected.now.num_buckets[is_near], pa.int32()),
    }
    return pa.table(columns), int(np.count_nonzero(is_near))


def select_removed(members: pa.Table, survivors: pa.Table) -> pa.Table:
    """Columns REMOVED of the members that are removed. Needs the columns of MEMBERS, and all of these
    members; `survivors` as `graph.choose_best` gives them."""
    places = pc.index_in(survivors["b"], value_set=members["order"].combine_chunks())
    kept = [name for name in REMOVED if name in members.column_names and name != "duplicate_of"]
    removed = members.select(kept).take(places)
    removed = removed.append_column("duplicate_of", _find_doc_id(survivors["survivor"]))
    removed = removed.append_column("failed_rule", pa.array([NEAR_DUPLICATE] * len(removed), pa.string()))
    return removed.select(REMOVED)


def describe_clusters(members: pa.Table, clusters: pa.Table, survivors: pa.Table) -> pa.Table:
    """Rows of NEAR_DUPLICATES: one per member of a cluster. As `rounds.list_clusters`."""
    of_clusters = members.take(pc.index_in(clusters["member"], value_set=members["order"].combine_chunks()))
    sizes = clusters["cluster"].combine_chunks().value_counts()
    size = sizes.field("counts").take(pc.index_in(clusters["cluster"], value_set=sizes.field("values")))
    best = survivors.take(pc.index_in(clusters["member"], value_set=survivors["b"].combine_chunks()))
    return pa.table(
        {
            **{name: of_clusters[name] for name in ("doc_id", "source", "split")},
            "cluster_id": _find_doc_id(clusters["cluster"]),
            "cluster_size": size.cast(pa.int32()),
            "duplicate_of": _find_doc_id(best["survivor"]),
            "jaccard": best["jaccard"],
            "num_buckets": best["num_buckets"],
        }
    )


def _find_revisited(affected: Affected, removed: pa.Table) -> pa.Table:
    rows, clusters = affected.members, affected.clusters
    were = clusters.filter(pc.is_valid(clusters["duplicate_of"]))["doc_id"].combine_chunks()
    is_asked = pc.or_(
        pc.is_in(rows["doc_id"], value_set=were),
        pc.is_in(rows["doc_id"], value_set=removed["doc_id"].combine_chunks()),
    )
    is_changed = pc.is_in(rows["content_hash"], value_set=affected.contents)
    return rows.filter(pc.and_(pc.and_(is_asked, rows["was"]), pc.invert(is_changed))).select(_LABELLED)


def _find_doc_id(order: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.utf8_slice_codeunits(order, ORDER_DIGITS)
