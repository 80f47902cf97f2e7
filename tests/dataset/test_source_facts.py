"""Counts by source among the facts of a commit."""

from pipelines.dataset import source_facts
from pipelines.dataset.source_facts import describe_changed, describe_sources, read_sources


def count(sequences, tokens):
    return {"sequences": sequences, "tokens": tokens, "units": 9}


BEFORE = {"train": {"web": count(5, 50), "books": count(2, 20)}, "test": {"web": count(1, 10)}}


def test_the_facts_of_a_split_are_read_back():
    facts = describe_sources(BEFORE)
    assert read_sources(facts, "train") == {
        "books": {"sequences": 2, "tokens": 20},
        "web": {"sequences": 5, "tokens": 50},
    }
    assert read_sources(facts, "validation") == {}
    assert read_sources({"splits": {}}, "train") is None


def test_an_increment_adds_and_takes_away():
    added = {"train": {"web": count(3, 33), "new": count(1, 7)}, "validation": {"web": count(1, 4)}}
    removed = {"train": {"web": count(1, 9), "books": count(2, 20)}, "test": {"web": count(1, 10)}}
    changed = describe_changed(describe_sources(BEFORE), added, removed)
    assert changed == {
        "sources": {
            "train": {"new": {"sequences": 1, "tokens": 7}, "web": {"sequences": 7, "tokens": 74}},
            "validation": {"web": {"sequences": 1, "tokens": 4}},
        }
    }


def test_facts_of_an_earlier_distributary_stay_unknown():
    assert describe_changed({"splits": {}}, BEFORE, {}) == {}


def test_the_facts_of_many_sources_are_left_out(monkeypatch):
    monkeypatch.setattr(source_facts, "MAX_SOURCES", 3)
    assert describe_sources(BEFORE)
    monkeypatch.setattr(source_facts, "MAX_SOURCES", 2)
    assert describe_sources(BEFORE) == {}
    monkeypatch.setattr(source_facts, "MAX_SOURCES", 3)
    facts = describe_sources(BEFORE)
    assert describe_changed(facts, {"train": {"new": count(1, 7)}}, {}) == {}
