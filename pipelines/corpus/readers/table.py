"""Every input format by the name that `corpus.sources` gives it."""

from pipelines.corpus.readers import csv, jsonl, text
from pipelines.corpus.readers.format import Format

FORMATS: dict[str, Format] = {"csv": csv.FORMAT, "jsonl": jsonl.FORMAT, "text": text.FORMAT}
