"""Every input format, by the name that `corpus.sources` gives it."""

from pipelines.corpus.readers import csv, jsonl, parquet, text, tsv
from pipelines.corpus.readers.format import Format

# fmt: off
FORMATS: dict[str, Format] = {
    "csv": csv.FORMAT,
    "jsonl": jsonl.FORMAT,
    "parquet": parquet.FORMAT,
    "text": text.FORMAT,
    "tsv": tsv.FORMAT,
}
