"""Corpora that grow, and the tables that stage 1 leaves. A full run over the same files is the twin."""

import json
import random
from pathlib import Path

from jobs import corpus
from jobs.shell.settings import load
from pipelines.pin import pin
from pipelines.tables import (
    CONTAMINATION,
    DOCUMENTS,
    LEDGER,
    NEAR_DUPLICATES,
    QUARANTINE,
    SIGNALS,
    WORD_MATCHES,
)
from tests.conftest import TEST_CONF

ALWAYS = {"documents": DOCUMENTS, "quarantine": QUARANTINE, "ledger": LEDGER}
MEASURED = {"signals": SIGNALS, "word_matches": WORD_MATCHES, "contamination": CONTAMINATION}
NEAR = ["corpus.near_duplicates.enabled=true", "corpus.near_duplicates.max_source_loss=1.0"]
SPARK = "spark={" + ", ".join(f'{key}: "{value}"' for key, value in TEST_CONF.items()) + "}"


def list_overrides(folder: Path, lake: str) -> list[str]:
    """The stage on folder/raw/a (with keys) and folder/raw/b (without), with tables in folder/LAKE."""
    keyed = "fields: {text: text, key: key, split: split}"
    sources = ", ".join(
        f"{{name: {name}, path: {folder}/raw/{name}, format: jsonl, {fields}}}"
        for name, fields in (("a", keyed), ("b", "fields: {text: text, split: split}"))
    )
    given = [f"root={folder}/{lake}", f"corpus.sources=[{sources}]", "corpus.max_quarantined_fraction=1"]
    return [*given, SPARK]


def make_config(folder: Path, lake: str = "lake", *overrides: str, **knobs):
    """The configuration of the stage, as `list_overrides` has it."""
    settings = load(overrides=[*list_overrides(folder, lake), *overrides])
    return settings.section("corpus", corpus.Config).model_copy(update=knobs)


def write_file(folder: Path, source: str, file: str, *records: dict | bytes) -> Path:
    """A file of JSON Lines, which appears complete; bytes are written as they are."""
    path = folder / "raw" / source / file
    path.parent.mkdir(parents=True, exist_ok=True)
    writing = path.with_name(f".{file}")  # hidden from the listing
    lines = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in records]
    writing.write_bytes(b"".join(line + b"\n" for line in lines))
    return writing.rename(path)


def make_text(number: int) -> str:
    """Words that differ; every seventh text repeats one, which breaks rules, every fifth is rude."""
    words = [f"{number}w{0 if number % 7 == 0 else place}" for place in range(30)]
    return " ".join([*words, *(["fool"] if number % 5 == 1 else [])])


def list_screens(folder: Path) -> list[str]:
    """Rules of all kinds, with a word list and an evaluation set that has two of the texts."""
    (folder / "rude.txt").write_text("fool\n")
    records = (json.dumps({"text": make_text(number)}) + "\n" for number in (3, 4))
    (folder / "questions.jsonl").write_text("".join(records))
    questions = f"{{name: exam, path: {folder}/questions.jsonl, format: jsonl, fields: {{text: text}}}}"
    return [
        "corpus.rules.presets=[gopher_repetition@paper]",
        f"corpus.rules.word_lists=[{{name: rude, path: {folder}/rude.txt, max_matches: 0}}]",
        f"corpus.decontamination.evaluation_sets=[{questions}]",
    ]


def make_variant(number: int, variant: int) -> str:
    """Texts of one number are near duplicates of each other: they differ in one word of 60. Those of a number
    and the next share half of their words, in the order of both."""
    return " ".join([*(f"{number + place // 30}w{place % 30}" for place in range(60)), f"v{variant}"])


def write_batch(folder: Path, number: int, draw: random.Random) -> None:
    """Two files whose texts also occur in other batches, with splits of their own, broken records and, in
    source a, keys that earlier files have. Source b also has near duplicates of texts of all batches, and
    some that no other batch has."""
    for source in ("a", "b"):
        texts = [make_text(draw.randrange(25)) for _ in range(12)]
        if source == "b":
            texts += [make_variant(100 + draw.randrange(8), draw.randrange(5)) for _ in range(14)]
        records: list[dict | bytes] = []
        for row, text in enumerate(texts):
            split = draw.choice(["train", "train", "validation", "test"])
            key = f"{number}-{row}" if row % 5 else f"shared {row}"
            records.append({"text": text, "split": split, "key": key})
        if source == "b":
            records += [{"text": make_variant(200 + 5 * number, each), "split": "train"} for each in range(3)]
        records += [b"broken", {"text": "", "key": f"{number} empty", "split": "train"}]
        # Names grow, so that the first record with a key is in an earlier batch.
        write_file(folder, source, f"{number:03}.jsonl", *records)


def describe_tables(spark, config) -> dict[str, tuple]:
    """By table: digest and number of rows of the pin, and of the rows that are there; facts of documents."""
    found: dict[str, tuple] = {}
    measured = MEASURED if config.rules.word_lists else {}
    near = {"duplicates": NEAR_DUPLICATES} if config.near_duplicates.enabled else {}
    for name, table in (ALWAYS | measured | near).items():
        path = getattr(config, name)
        pinned = pin(path)
        assert pinned is not None, name
        found[name] = (pinned.digest, pinned.num_rows, table.digest(table.read(spark, path)))
        assert found[name][:2] == found[name][2], f"{name}: the record differs from the rows"
    facts = pin(config.documents).facts
    for work in ("signed", "pairs_compared"):  # what this run computed, and earlier ones did not
        facts.get("near_duplicates", {}).pop(work, None)
    found["facts"] = (facts,)
    return found
