"""Every input format, by the name that `corpus.sources` gives it."""

from pipelines.corpus.readers import (
    csv,
    delta,
    delta_changes,
    html,
    jsonl,
    kafka,
    markdown,
    parquet,
    pdf,
    text,
    text_lines,
    tsv,
    warc,
)
from pipelines.corpus.readers.format import Format

# fmt: off
FORMATS: dict[str, Format] = {
    "csv": csv.FORMAT,
    "delta": delta.FORMAT,
    "delta_changes": delta_changes.FORMAT,
    "html": html.FORMAT,
    "jsonl": jsonl.FORMAT,
    "kafka": kafka.FORMAT,
    "lines": text_lines.FORMAT,
    "markdown": markdown.FORMAT,
    "parquet": parquet.FORMAT,
    "pdf": pdf.FORMAT,
    "text": text.FORMAT,
    "tsv": tsv.FORMAT,
    "warc": warc.FORMAT,
}
