"""Tokens per second of one core from Arrow documents to packed Arrow rows, beside `encode_batch_fast` of the
tokenizers library on the same texts, and whether every id and every character offset is that of the library.

English, Chinese and code, each as many bytes as asked for. The texts of `data/` are too few for that, so new
ones are spliced from them: cuts of 200 to 1,000 characters in another order. Code is Python's own library.

Ours: `make_partition_packer` as a Spark task runs it (Arrow in, ids, offsets, targets, packing, checks, Arrow
out). The library makes tokens only, 256 texts in one call. Each in turn, on one thread, by the time of the
core. The first pass of ours begins with an empty encoder. Exit status: 0, also if a bar is missed; 2 if
something failed, or if an id or an offset differs.
"""

import gzip
import json
import os
import random
import resource
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import tokenizers
import typer
from rich.table import Table

from benchmarks.measuring import run_benchmark
from jobs.shell.display import console
from pipelines.dataset import group
from pipelines.dataset.chat_format import ChatFormat
from pipelines.dataset.examples.encode import TextEncoder
from pipelines.dataset.group import PackingJob, make_partition_packer
from pipelines.dataset.packing.rules import PackingRules
from pipelines.dataset.tokenizer import from_json, train_bpe, wrap_trained

DATA = Path(__file__).parent.parent / "data"
RESULT = Path(__file__).parent / "results" / "encoding.json"
VOCAB_SIZE, SEQUENCE_LENGTH, DOCUMENT_CHARS = 8_192, 1_024, 3_800
MIN_TOKENS_PER_SECOND = 4e6
"""The bar: of one core, from Arrow to Arrow."""
BATCH = 256
GROUP_BYTES = 16 * 2**20


def read_english() -> str:
    files = sorted((DATA / "gutenberg_en").rglob("*.gz"))
    return "".join(gzip.decompress(file.read_bytes()).decode() for file in files)


def read_chinese() -> str:
    files = [*sorted((DATA / "chinese").glob("*.jsonl.gz")), DATA / "web_chinese" / "wikipedia.jsonl.gz"]
    return "\n".join(
        json.loads(line).get("text", "") for file in files for line in gzip.open(file, "rt", encoding="utf-8")
    )


def read_code() -> str:
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in files)


KINDS = {"English": read_english, "Chinese": read_chinese, "code": read_code}


def splice_texts(source: str, megabytes: float, seed: int) -> list[str]:
    """Texts of about DOCUMENT_CHARS characters, so many MB of UTF-8 together."""
    draw, texts, left = random.Random(seed), list[str](), megabytes * 1e6
    while left > 0:
        parts = list[str]()
        while sum(map(len, parts)) < DOCUMENT_CHARS:
            start = draw.randrange(len(source))
            parts.append(source[start : start + draw.randrange(200, 1_000)])
        texts.append("".join(parts))
        left -= len(texts[-1].encode())
    return texts


def to_batches(texts: list[str]) -> list[pa.RecordBatch]:
    """As Spark gives them to a task: sorted by split, group, source and doc_id."""
    size = sum(len(text.encode()) for text in texts)
    num_groups = max(1, round(size / GROUP_BYTES))
    columns = {
        "doc_id": [f"{number:032x}" for number in range(len(texts))],
        "split": ["train"] * len(texts),
        "group": pa.array([number * num_groups // len(texts) for number in range(len(texts))], pa.int64()),
        "source": ["books"] * len(texts),
        "text": texts,
    }
    return pa.table(columns).to_batches(max_chunksize=10_000)


def packed_schema() -> pa.Schema:
    """The columns of SEQUENCES; the stage derives them from the table, which needs a JVM."""
    integer, text = pa.int32(), pa.string()
    run = [("first_token", integer), ("num_tokens", integer)]
    segment = [("doc_id", text), *run, ("char_start", integer), ("char_end", integer)]
    return pa.schema(
        [
            *(("sequence_id", pa.int64()), ("split", text), ("source", text)),
            *(("input_ids", pa.list_(integer)), ("num_tokens", integer), ("label", integer)),
            ("labels", pa.list_(integer)),
            *(("targets", pa.list_(pa.struct(run))), ("num_targets", integer), ("num_bytes", integer)),
            *(("num_cut_tokens", integer), ("num_continued", integer)),
            *(("segments", pa.list_(pa.struct(segment))), ("doc_keys", pa.list_(integer))),
        ]
    )


def measure_ours(batches: list[pa.RecordBatch], tokenizer_json: str) -> float:
    """Tokens per second of the core."""
    job = PackingJob(
        task="language_modelling",
        tokenizer_json=tokenizer_json,
        end_token_id=wrap_trained(from_json(tokenizer_json)).end_token_id,
        labels=(),
        rules=PackingRules(method="concatenate", sequence_length=SEQUENCE_LENGTH),
        chat=ChatFormat(),
    )
    pack, started = make_partition_packer(job, packed_schema()), time.process_time()
    num_tokens = sum(int(rows["num_tokens"].to_numpy().sum()) for rows in pack(batches))
    return num_tokens / (time.process_time() - started)


def measure_library(texts: list[str], tokenizer_json: str) -> float:
    """Tokens per second of the core."""
    tokenizer, num_tokens, started = from_json(tokenizer_json), 0, time.process_time()
    for first in range(0, len(texts), BATCH):
        num_tokens += sum(map(len, tokenizer.encode_batch_fast(texts[first : first + BATCH])))
    return num_tokens / (time.process_time() - started)


def require_equal(texts: list[str], tokenizer_json: str) -> int:
    """Tokens that were compared. Raises ValueError at the first text with another id or offset."""
    ours, library, num_tokens = TextEncoder(from_json(tokenizer_json)), from_json(tokenizer_json), 0
    for encoded, expected, text in _encode_both(ours, library, texts):
        spans = np.array(expected.offsets[:-1], dtype=np.int32).reshape(-1, 2)  # the last token ends the text
        found = np.stack([encoded.char_start[:-1], encoded.char_end[:-1]], axis=1)
        if encoded.input_ids.tolist() != expected.ids or not np.array_equal(found, spans):
            raise ValueError(f"other ids or offsets than the library for {text[:60]!r}")
        num_tokens += len(expected)
    return num_tokens


def _encode_both(ours: TextEncoder, library: Any, texts: list[str]) -> Iterator[tuple[Any, Any, str]]:
    for first in range(0, len(texts), BATCH):
        batch = texts[first : first + BATCH]
        yield from zip(ours.encode(batch), library.encode_batch(batch), batch, strict=True)


def measure(megabytes: float, check: bool) -> dict[str, Any]:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    sources = {kind: read() for kind, read in KINDS.items()}
    sample = [text for kind in KINDS for text in splice_texts(sources[kind], 2, seed=0)]
    tokenizer_json = train_bpe(iter(sample), vocab_size=VOCAB_SIZE).to_str()
    encoder = TextEncoder(from_json(tokenizer_json)).description
    table = Table("million tokens/s", "first", "second", "library", "first / library", "equal tokens")
    found: dict[str, Any] = {}
    for number, kind in enumerate(KINDS, start=1):
        texts = splice_texts(sources[kind], megabytes, seed=number)
        batches = to_batches(texts)
        group._make_builder.cache_clear()  # so that the first pass begins with an empty encoder
        first, second = (measure_ours(batches, tokenizer_json) for _ in range(2))
        library = measure_library(texts, tokenizer_json)
        equal = require_equal(texts, tokenizer_json) if check else 0
        found[kind] = {"first": first, "second": second, "library": library, "equal_tokens": equal}
        shown = (f"{value / 1e6:.2f}" for value in (first, second, library))
        table.add_row(kind, *shown, f"{first / library:.2f}", f"{equal:,}")
    console.print(table)
    met = all(each["first"] >= MIN_TOKENS_PER_SECOND for each in found.values())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    console.print(f"{encoder}; at most {memory:,} MiB of memory, the texts included")
    console.print(
        f"bar {'met' if met else 'not met'}: at least {MIN_TOKENS_PER_SECOND / 1e6:.0f} million tokens/s"
    )
    return {"encoder": encoder, "kinds": found, "memory_mib": memory, "met": met}


Megabytes = Annotated[float, typer.Option(min=1, help="UTF-8 text of each kind.")]
Check = Annotated[bool, typer.Option(help="Compare every id and offset with the library: 1 s per MB.")]
Output = Annotated[Path, typer.Option(dir_okay=False, help="JSON file with the numbers and the machine.")]


def main(megabytes: Megabytes = 34, check: Check = True, output: Output = RESULT) -> None:
    run_benchmark(
        lambda: measure(megabytes, check), output, tokenizers=tokenizers.__version__, megabytes=megabytes
    )


main.__doc__ = __doc__

if __name__ == "__main__":
    typer.run(main)
