"""The labelled texts in data/: what their README promises, and what would let a model see its test."""

import csv
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

DATA = Path(__file__).parent.parent.parent / "data"


def read_csv(name):
    with (DATA / name).open(newline="", encoding="utf-8") as rows:
        return list(csv.DictReader(rows))


def read_readme(folder):
    """The row of the table that describes a folder."""
    text = (DATA / "README.md").read_text(encoding="utf-8")
    return next(line for line in text.splitlines() if line.startswith(f"| `{folder}/`"))


def find_count(pattern, text):
    return int(re.search(pattern, text)[1].replace(",", ""))


@pytest.fixture(scope="module")
def headlines():
    return read_csv("sentfin/headlines.csv")


@pytest.fixture(scope="module")
def requests():
    return {split: read_csv(f"massive_zh/{split}.csv") for split in ("train", "validation", "test")}


def test_all_entities_of_a_headline_are_in_one_split(headlines):
    splits = defaultdict(set)
    for row in headlines:
        plain = re.sub(r"\W+", " ", row["headline"].lower()).strip()
        splits[plain].add(row["split"])
    assert {len(names) for names in splits.values()} == {1}
    assert sum(count > 1 for count in Counter(row["headline"] for row in headlines).values()) > 2_800


def test_every_entity_stands_in_its_headline(headlines):
    missing = [row for row in headlines if row["entity"].lower() not in row["headline"].lower()]
    assert missing == []


def test_no_name_is_what_a_replacement_of_hold_or_sell_left(headlines):
    assert [
        row for row in headlines if re.search("neutraling|rusnegative", row["entity"], re.IGNORECASE)
    ] == []
    assert sum("holdings" in row["entity"].lower() for row in headlines) > 10


def test_headlines_are_as_many_as_their_readme_says(headlines):
    told, found = read_readme("sentfin"), Counter(row["split"] for row in headlines)
    assert find_count(r"\| ([\d,]+) headlines", told) == len({row["id"].split("-")[0] for row in headlines})
    assert find_count(r"csv` ([\d,]+) rows", told) == len(headlines)
    for split in ("train", "validation", "test"):
        assert find_count(rf"{split} ([\d,]+)", told) == found[split]
    assert {row["sentiment"] for row in headlines} == {"positive", "neutral", "negative"}


def test_requests_are_the_official_splits(requests):
    told = read_readme("massive_zh")
    assert find_count(r"\| ([\d,]+) requests", told) == sum(map(len, requests.values()))
    for split, rows in requests.items():
        assert find_count(rf"{split}\.csv` ([\d,]+)", told) == len(rows)
    intents = {split: {row["intent"] for row in rows} for split, rows in requests.items()}
    assert len(intents["train"]) == 60
    assert intents["train"] - intents["test"] == {"cooking_query"}
    assert intents["test"] | intents["validation"] <= intents["train"]


@pytest.mark.parametrize("source", ["headlines", "requests"])
def test_ids_are_keys(source, request):
    rows = request.getfixturevalue(source)
    rows = rows if isinstance(rows, list) else [row for part in rows.values() for row in part]
    assert len({row["id"] for row in rows}) == len(rows) > 10_000
