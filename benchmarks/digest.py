"""What the digest of a table costs, as a share of writing it.

Each round writes the same documents twice, from Parquet files, as the corpus stage writes them: once with the
digest over all columns, once over one number of each row. The difference is what the digest costs: hashing in
the JVM and adding up in Python. Reading and the check of keys are part of both. The first round is printed
but not counted.

Exit status: 0, also if the bar is missed; 2 if something failed.
"""

import os
import random
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import typer
from pyspark.sql import DataFrame

from benchmarks.measuring import run_benchmark
from jobs.shell.display import console
from pipelines.delta import Table
from pipelines.spark import session
from pipelines.tables import DOCUMENTS

RESULT = Path(__file__).parent / "results" / "digest.json"
MAX_SHARE = 0.10
"""The bar, by medians."""
_WORDS = 600


def write_documents(folder: Path, megabytes: float) -> None:
    """Parquet files of rows of DOCUMENTS, one per core."""
    schema, num_files = DOCUMENTS.arrow_schema, os.cpu_count() or 1
    words = ["".join(random.Random(n).choices("abcdefghijklmnopqrst", k=2 + n % 8)) for n in range(20_000)]
    for number in range(num_files):
        draw, texts, left = random.Random(number), list[str](), megabytes * 1e6 / num_files
        while left > 0:
            texts.append(" ".join(draw.choices(words, k=_WORDS)))
            left -= len(texts[-1])
        ids = [f"{draw.getrandbits(128):032x}" for _ in texts]
        given = {"doc_id": ids, "content_hash": ids[::-1], "text": texts, "offset": list(range(len(texts)))}
        given |= {name: list(map(len, texts)) for name in ("num_chars", "num_bytes")}
        constant = {"source": "s", "split": "train", "file": f"{number:03}.jsonl"}
        columns = [
            pa.array(given.get(column.name, [constant.get(column.name)] * len(texts)), column.type)
            for column in schema
        ]
        pq.write_table(pa.table(columns, schema=schema), folder / f"{number:03}.parquet")


def measure_write(table: Table, rows: DataFrame, place: Path) -> float:
    """Seconds to write the rows; the files are deleted again."""
    started = time.perf_counter()
    with table.hold(rows, str(place)):
        return time.perf_counter() - started


def run_rounds(megabytes: float, rounds: int) -> dict[str, list[float]]:
    """Seconds of the writes, the warm-up first."""
    cores = os.cpu_count() or 1
    conf = {"spark.master": f"local[{cores},4]", "spark.ui.showConsoleProgress": "false"}
    samples: dict[str, list[float]] = {"with": [], "without": []}
    with tempfile.TemporaryDirectory() as folder:
        source, place = Path(folder, "source"), Path(folder, "table")
        source.mkdir()
        spark = session("distributary benchmark", conf)  # a DDL is read with its help
        write_documents(source, megabytes)
        rows = spark.read.schema(DOCUMENTS.schema).parquet(str(source))
        without = replace(DOCUMENTS, volatile=tuple({*DOCUMENTS.schema.names} - {"num_chars"}))
        for number in range(rounds + 1):
            for name, table in (("with", DOCUMENTS), ("without", without)):
                samples[name].append(measure_write(table, rows, place))
                turn = f"round {number}" if number else "warm-up"
                console.print(f"{turn}: {name} digest: {samples[name][-1]:.2f} s")
    return samples


def report(samples: dict[str, list[float]]) -> dict[str, Any]:
    both, write = (statistics.median(samples[name][1:]) for name in ("with", "without"))
    share = max(0.0, 1 - write / both)
    met = share <= MAX_SHARE
    verdict = "met" if met else "not met"
    console.print(f"the digest takes {share:.1%} of a write: bar {verdict} (at most {MAX_SHARE:.0%})")
    return {"samples": samples, "share": share, "max_share": MAX_SHARE, "met": met}


Megabytes = Annotated[float, typer.Option(min=1, help="Text in one write.")]
Rounds = Annotated[int, typer.Option(min=1, help="Counted rounds.")]


def main(megabytes: Megabytes = 100.0, rounds: Rounds = 5) -> None:
    run_benchmark(lambda: report(run_rounds(megabytes, rounds)), RESULT, megabytes=megabytes)


main.__doc__ = __doc__

if __name__ == "__main__":
    typer.run(main)
