"""Small corpora with near duplicates of known similarity, and how to search them."""

import hashlib
import json
from contextlib import contextmanager
from tempfile import TemporaryDirectory

from pipelines.corpus.build import open_corpus
from pipelines.corpus.manifest import list_sources
from pipelines.corpus.neardup.find import Search
from pipelines.corpus.neardup.presets import NearDuplicates
from pipelines.corpus.rules import Rules
from pipelines.corpus.source import Source
from pipelines.tables import DOCUMENTS


def doc_id(key, source="s"):
    return hashlib.sha256("\x1f".join((source, "key", key)).encode()).hexdigest()[:32]


def window(start, num_words=100, *, length=0):
    """Words START to START + num_words. All are equally long; `length` exclamation marks make the
    text longer and change no word."""
    return " ".join(f"w{number:04}" for number in range(start, start + num_words)) + "!" * length


def shifted_jaccard(shift, num_words=100, ngram=3):
    """Exact similarity of window(x) and window(x + shift)."""
    num_shingles = num_words - ngram + 1
    common = num_shingles - shift
    return common / (2 * num_shingles - common)


def write_texts(folder, texts, *, source="s", file="f", split="train"):
    """JSON Lines: key -> text, or key -> (text, split)."""
    place = folder / source / file
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("a", encoding="utf-8") as lines:
        for key, value in texts.items():
            text, own_split = value if isinstance(value, tuple) else (value, split)
            record = {"key": key, "text": text, "split": own_split}
            lines.write(json.dumps(record, ensure_ascii=False) + "\n")


def make_source(folder, name="s"):
    fields = {field: field for field in ("text", "key", "split")}
    return Source(name=name, path=f"{folder}/{name}", format="jsonl", fields=fields)


def make_search(tables, *, driver_pairs=100_000, driver_edges=1_000_000, driver_buckets=2_000_000, **knobs):
    return Search(
        settings=NearDuplicates(enabled=True, **knobs),
        signatures=f"{tables}/signatures",
        similarities=f"{tables}/similarities",
        evidence=f"{tables}/duplicates",
        driver_pairs=driver_pairs,
        driver_edges=driver_edges,
        driver_buckets=driver_buckets,
    )


@contextmanager
def search_corpus(spark, sources, search):
    """(documents held, evidence by doc_id, the corpus)."""
    manifest = list_sources(sources)
    with TemporaryDirectory() as table, open_corpus(spark, sources, manifest, Rules(), search) as corpus:
        evidence = {row.doc_id: row for row in corpus.near_duplicates.evidence.collect()}
        with corpus.hold_documents(table) as documents:
            yield documents, evidence, corpus


def find_reasons(spark, sources, search):
    """key or doc_id -> (drop_reason, duplicate_of) of every document."""
    with search_corpus(spark, sources, search) as (documents, _, corpus):
        assert DOCUMENTS.digest(documents.rows)[0] == documents.digest
        rows = documents.rows.select("doc_id", "drop_reason", "duplicate_of").collect()
        dropped = {}
        for row in rows:
            dropped[row.drop_reason] = dropped.get(row.drop_reason, 0) + 1
        dropped.pop(None, None)
        assert dropped == corpus.facts["dropped"], "the counts before the second reading"
        return {row.doc_id: (row.drop_reason, row.duplicate_of) for row in rows}
