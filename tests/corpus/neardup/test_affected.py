"""Only what new files can change is searched. The twin looks at all members, in plain Python; no Spark."""

import random
from collections import Counter
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pyarrow as pa
from deltalake import CommitProperties, write_deltalake

from pipelines.commit_record import encode_record
from pipelines.corpus.neardup.affected import CLUSTERED, ROWS, SIGNED, find_affected, merge_changed
from pipelines.corpus.neardup.candidates import ORDER_DIGITS
from pipelines.corpus.neardup.outcome import ask_pairs, decide
from pipelines.corpus.neardup.presets import NearDuplicates
from pipelines.corpus.neardup.stored import are_signed, describe_signed
from pipelines.pin import open_log

MIN_JACCARD = 0.6
REMOVABLE = 8


@dataclass(frozen=True)
class Document:
    doc_id: str
    source: str
    file: str
    split: str
    content: int
    fails: bool
    """A rule that looks at more than the content (contamination) drops it."""

    @property
    def content_hash(self):
        return f"c{self.content:04}"

    def priority(self, protected):
        splits = {"test": 0, "validation": 1, "train": 2}
        return -1 if self.source in protected else splits[self.split]


@dataclass(frozen=True)
class World:
    """Texts: their buckets, their similarities, and how members are ordered."""

    buckets: dict[int, list[int]]
    similar: dict[tuple[int, int], float]
    settings: NearDuplicates

    def order(self, document):
        settings = self.settings
        kept = 2 if document.split in settings.drop_from else 1
        group = 0 if document.source in settings.protected_sources else kept
        splits = {"test": 0, "validation": 1, "train": 2}
        length = {"longest": 1_000 - document.content % 7, "shortest": document.content % 7}
        rank = (group * 4 + splits[document.split] << 40) + length.get(settings.survivor, 0)
        return f"{rank:0{ORDER_DIGITS}d}{document.doc_id}"

    def is_removable(self, document):
        return int(self.order(document)[:ORDER_DIGITS]) >= REMOVABLE << 40

    def compare(self, one, other):
        return 1.0 if one == other else self.similar[min(one, other), max(one, other)]


def choose_members(documents, protected):
    """(the members, and of each content the doc_id of the copy that survives)"""
    survivors = {}
    for each in sorted(documents, key=lambda each: (each.priority(protected), each.doc_id)):
        survivors.setdefault(each.content, each)
    members = [each for each in survivors.values() if not each.fails]
    return members, {content: each.doc_id for content, each in survivors.items()}


def pair_slowly(world, members):
    """(pairs with the number of their buckets, crowded buckets)"""
    scope = {"corpus": (), "source": ("source",), "file": ("source", "file")}[world.settings.scope]
    buckets = {}
    for each in sorted(members, key=world.order):
        for bucket in world.buckets[each.content]:
            buckets.setdefault((bucket, *(getattr(each, name) for name in scope)), []).append(each)
    most, pairs = world.settings.max_leaders, Counter()
    for of_bucket in buckets.values():
        for one, other in combinations(range(len(of_bucket)), 2):
            if one < most:
                pairs[of_bucket[one], of_bucket[other]] += 1
    return pairs, sum(len(of_bucket) > most for of_bucket in buckets.values())


def search_slowly(world, documents):
    """(evidence by doc_id, label of each document, facts) of a search among all members."""
    members, survivors = choose_members(documents, world.settings.protected_sources)
    pairs, num_crowded = pair_slowly(world, members)
    edges = {
        pair: count
        for pair, count in pairs.items()
        if world.compare(*(p.content for p in pair)) >= MIN_JACCARD
    }
    cluster = {each: each for pair in edges for each in pair}
    for _ in cluster:
        for one, other in edges:
            cluster[one] = cluster[other] = min(cluster[one], cluster[other], key=world.order)
    removed = {}
    for each in sorted(cluster, key=world.order):
        better = [one for one, other in edges if other == each and one not in removed]
        if better and world.is_removable(each):
            removed[each] = min(better, key=world.order)
    sizes = Counter(cluster.values())
    evidence = {
        each.doc_id: {
            "doc_id": each.doc_id,
            "source": each.source,
            "split": each.split,
            "cluster_id": first.doc_id,
            "cluster_size": sizes[first],
            "duplicate_of": removed[each].doc_id if each in removed else None,
            "jaccard": world.compare(each.content, removed[each].content) if each in removed else None,
            "num_buckets": edges[removed[each], each] if each in removed else None,
        }
        for each, first in cluster.items()
    }
    facts = {
        "pairs": len(pairs),
        "near_pairs": len(edges),
        "crowded_buckets": num_crowded,
        "clusters": len(sizes),
    }
    by_id = {each.doc_id: other.doc_id for each, other in removed.items()}
    return evidence, {each.doc_id: find_label(each, survivors, by_id) for each in documents}, facts


def find_label(document, survivors, removed):
    """(duplicate_of, drop_reason)"""
    survivor = survivors[document.content]
    copied = survivor if survivor != document.doc_id else removed.get(document.doc_id)
    if document.fails:
        return copied, "contaminated"
    if document.doc_id in removed:
        return copied, "near_duplicate"
    return copied, "exact_duplicate" if copied and document.split != "test" else None


def make_rows(world, documents, labels=None, *, was, now):
    rows = [
        {
            **{name: getattr(each, name) for name in ("doc_id", "source", "file", "split", "content_hash")},
            "order": world.order(each),
            "num_chars": 10,
            "offset": 0,
            "task": None if labels else 1,
            "slice": None if labels else 1,
            "shard": "s" if labels else None,
            "duplicate_of": labels[each.doc_id][0] if labels else None,
            "drop_reason": labels[each.doc_id][1] if labels else None,
            "was": was,
            "now": now,
        }
        for each in documents
    ]
    return pa.Table.from_pylist(rows, ROWS)


class Tables:
    """The tables of before, as lists in memory."""

    def __init__(self, world, documents, evidence, labels, signed):
        self.world, self.evidence, self.labels, self.signed = world, evidence, labels, signed
        self.members = choose_members(documents, world.settings.protected_sources)[0]
        self.num_asked = 0

    def sign(self, contents):
        self.num_asked += len(contents)
        rows = [{"content_hash": f"c{each:04}", "buckets": self.world.buckets[each]} for each in contents]
        return pa.Table.from_pylist(rows, SIGNED)

    def find_sharing(self, buckets):
        asked = set(buckets.to_pylist())
        return self.sign([each for each in sorted(self.signed) if asked & set(self.world.buckets[each])])

    def find_signatures(self, contents):
        asked = set(contents.to_pylist())
        return self.sign([each for each in sorted(self.signed) if f"c{each:04}" in asked])

    def find_members(self, contents):
        asked = set(contents.to_pylist())
        found = [each for each in self.members if each.content_hash in asked]
        return make_rows(self.world, found, self.labels, was=True, now=True)

    def find_named(self, doc_ids):
        asked = set(doc_ids.to_pylist())
        found = [each for each in self.members if each.doc_id in asked]
        return make_rows(self.world, found, self.labels, was=True, now=True)

    def find_clusters(self, doc_ids):
        asked = {self.evidence[each]["cluster_id"] for each in doc_ids.to_pylist() if each in self.evidence}
        rows = [row for row in self.evidence.values() if row["cluster_id"] in asked]
        return pa.Table.from_pylist(
            [{name: row[name] for name in CLUSTERED.names} for row in rows], CLUSTERED
        )


def search_changed(world, documents, new, before, signed):
    """As `search_slowly` of both, from the results of before; and the number of members looked at."""
    evidence, labels, facts = before
    tables = Tables(world, documents, evidence, labels, signed)
    contents = {each.content for each in new}
    members, survivors = choose_members([*documents, *new], world.settings.protected_sources)
    changed = [each for each in members if each.content in contents]
    known = [each for each in tables.members if each.content in contents]
    rows = [
        make_rows(world, [each for each in changed if each in documents], labels, was=False, now=True),
        make_rows(world, [each for each in changed if each in new], was=False, now=True),
        make_rows(world, known, labels, was=True, now=False),
    ]
    merged = merge_changed(pa.concat_tables(rows))
    signatures = tables.sign(sorted({each.content for each in [*changed, *known]}))
    found = find_affected(merged, signatures, tables, world.settings)
    asked = ask_pairs(found)
    numbers = [[int(end[1:]) for end in pair.values()] for pair in asked.contents.to_pylist()]
    jaccards = np.array([world.compare(*pair) for pair in numbers], float)
    outcome = decide(found, asked, jaccards, MIN_JACCARD, facts)
    replaced = set(outcome.replaced.to_pylist())
    rows = {name: row for name, row in evidence.items() if row["cluster_id"] not in replaced}
    added = {row["doc_id"]: row for row in outcome.evidence.to_pylist()}
    assert not rows.keys() & added.keys()
    # The stage labels new documents, earlier ones with one of their contents, and those revisited.
    removed = {row["doc_id"]: row["duplicate_of"] for row in outcome.removed.to_pylist()}
    revisited = {row["doc_id"] for row in outcome.revisited.to_pylist()}
    assert len(revisited) == outcome.revisited.num_rows
    again = [each for each in documents if each.content in contents or each.doc_id in revisited]
    labels = labels | {each.doc_id: find_label(each, survivors, removed) for each in [*new, *again]}
    return (rows | added, labels, outcome.facts), found.members.num_rows


def draw_world(draw):
    num_texts, num_bands = draw.choice([5, 20, 40, 60]), draw.randrange(1, 4)
    spread = draw.choice([2, 4, 8, 16])
    buckets = {
        text: [band * 100 + draw.randrange(spread) for band in range(num_bands)]
        if draw.random() < 0.9
        else []
        for text in range(num_texts)
    }
    power = draw.choice([1, 4])  # 40 % of all pairs are near duplicates, or 12 %
    similar = {pair: round(draw.random() ** power, 3) for pair in combinations(range(num_texts), 2)}
    settings = NearDuplicates(
        enabled=True,
        survivor=draw.choice(["longest", "shortest", "smallest_id"]),
        scope=draw.choice(["corpus", "corpus", "source", "file"]),
        protected_sources=draw.choice([(), ("s1",)]),
        drop_from=draw.choice([("train", "validation"), ("train",), ("train", "validation", "test")]),
        max_leaders=draw.choice([1, 2, 3, 32]),
    )
    return World(buckets, similar, settings)


def draw_documents(draw, world, number, batch):
    """Of equal contents, one may fail a rule that the others do not."""
    return [
        Document(
            doc_id=f"{draw.getrandbits(128):032x}",
            source=draw.choice(["s1", "s2", "s3"]),
            file=f"{batch}-{draw.randrange(2)}" if draw.random() < 0.8 else "f",
            split=draw.choice(["train", "train", "validation", "test"]),
            content=draw.randrange(len(world.buckets)),
            fails=draw.random() < 0.2,
        )
        for _ in range(number)
    ]


def check_corpora(seeds):
    """How often each interesting case occurred."""
    seen = Counter()
    for seed in seeds:
        draw = random.Random(seed)
        world = draw_world(draw)
        documents = draw_documents(draw, world, draw.randrange(0, len(world.buckets)), 0)
        signed = {each.content for each in choose_members(documents, world.settings.protected_sources)[0]}
        signed |= set(draw.sample(range(len(world.buckets)), 2))  # of another corpus
        state = search_slowly(world, documents)
        for batch in (1, 2):
            new = draw_documents(draw, world, draw.randrange(1, 12), batch)
            both = [*documents, *new]
            signed |= {each.content for each in choose_members(both, world.settings.protected_sources)[0]}
            grown, num_members = search_changed(world, documents, new, state, signed)
            expected = search_slowly(world, both)
            for found, right in zip(grown, expected, strict=True):
                assert found == right, f"seed {seed}, batch {batch}"
            note_cases(seen, state, expected)
            all_members, _ = choose_members(both, world.settings.protected_sources)
            seen["some members only"] += num_members < len(all_members)
            documents, state = both, expected
    return seen


def note_cases(seen, before, now):
    clusters = [
        {name: row["cluster_id"] for name, row in evidence.items()} for evidence in (before[0], now[0])
    ]
    kept = clusters[0].keys() & clusters[1].keys()
    were = {name: frozenset(k for k in kept if clusters[0][k] == clusters[0][name]) for name in kept}
    are = {name: frozenset(k for k in kept if clusters[1][k] == clusters[1][name]) for name in kept}
    seen["merged"] += any(were[name] < are[name] for name in kept)
    seen["split"] += any(are[name] < were[name] for name in kept)
    seen["ended"] += bool(clusters[0].keys() - clusters[1].keys())
    seen["removed"] += any(
        label[1] is None and now[1][name][1] == "near_duplicate" for name, label in before[1].items()
    )
    seen["came back"] += any(
        label[1] == "near_duplicate" and now[1][name][1] is None for name, label in before[1].items()
    )
    seen["crowded"] += now[2]["crowded_buckets"] > 0


def test_changed_part_gives_what_a_whole_search_gives():
    seen = check_corpora(range(250))
    expected = {"merged", "split", "ended", "removed", "came back", "crowded", "some members only"}
    assert {case for case, count in seen.items() if count >= 2} == expected


def commit(path, *, last_foreign=None):
    """A commit of ours or, without last_foreign, of another program."""
    record = {"fingerprint": "f", "table": "t", "digest": "", "num_rows": 1, "facts": {}}
    ours = {"userMetadata": encode_record({**record, "last_foreign": last_foreign, "number": 0})}
    properties = None if last_foreign is None else CommitProperties(custom_metadata=ours)
    rows = pa.table({"content_hash": ["a"]})
    write_deltalake(path, rows, mode="append", commit_properties=properties)
    return open_log(path)


def test_signatures_count_as_complete_until_another_program_writes(tmp_path):
    settings, path = NearDuplicates(enabled=True), str(tmp_path / "signatures")
    first = describe_signed(commit(path, last_foreign=-1), settings)
    assert are_signed(open_log(path), first, settings)
    grown = commit(path, last_foreign=-1)
    assert are_signed(grown, first, settings)
    assert not are_signed(grown, {}, settings)
    assert not are_signed(grown, first, NearDuplicates(enabled=True, seed=2))
    assert not are_signed(commit(str(tmp_path / "other"), last_foreign=-1), first, settings)
    assert not are_signed(commit(path), first, settings)
    again = commit(path, last_foreign=2)
    assert not are_signed(again, first, settings)
    assert are_signed(again, describe_signed(again, settings), settings)
