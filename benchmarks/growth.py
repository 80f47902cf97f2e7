"""Growth: corpus and dataset at 1x, 4x and 16x input. Cost must grow with the rows and with nothing else.

For each size one process starts Spark, runs both stages on another small input (so that code is loaded and
compiled), and then on its input, into new tables. Measured of the second run only:

- seconds, and seconds per row (corpus: records, dataset: sequences)
- bytes that Spark's shuffles wrote, per row, from Spark's event log
- peak of what stays alive in the JVM after a collection of garbage; driver and executors are one JVM here
- peak resident memory of the largest Python worker

A start costs the same at every size, so seconds per row fall from 1x to 4x. What a row costs beyond the start
is the slope between two sizes: it must not grow from (1x, 4x) to (4x, 16x). Every second file has copies of
documents of the first one, so duplicates grow with the input.

At 30 MB, each slot has a task with as much text as it keeps in memory, so the bounds of memory are reached at
1x. Below, a larger input only fills them.

From the same numbers come the coefficients of docs/scale.md (`capacity`): benchmarks/coefficients.json.

Exit status: 0, also if a bar is missed; 2 if something failed.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import matplotlib.figure
import typer
from rich.table import Table

from benchmarks.capacity import COEFFICIENTS, Coefficients
from benchmarks.measuring import describe_machine, run_benchmark, write_json
from benchmarks.samples import Sample, add_shuffles, measure_table, watch_memory
from jobs.shell.display import console

FACTORS = (1, 4, 16)
MAX_GROWTH = 1.10
RESULT = Path(__file__).parent / "results" / "growth.json"
STAGES = ("corpus", "dataset")
SLOTS = 2
COLUMNS = ("seconds", "seconds_per_row", "shuffle_bytes_per_row", "jvm_bytes", "worker_bytes")
_WORDS_PER_DOCUMENT = 600
_COPY_FRACTION = 0.02
_CONF = {
    "spark.master": f"local[{SLOTS},4]",
    "spark.driver.memory": "2g",
    "spark.sql.shuffle.partitions": "4",
    "spark.databricks.delta.snapshotPartitions": "2",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.eventLog.enabled": "true",
    "spark.eventLog.compress": "false",
}


def write_documents(folder: Path, factor: int, megabytes: float) -> None:
    """`factor` JSON Lines files of so many MB, each with its own documents."""
    folder.mkdir(parents=True)
    words = ["".join(random.Random(n).choices("abcdefghijklmnopqrst", k=2 + n % 8)) for n in range(20_000)]
    copies: list[str] = []
    for number in range(factor):
        generator, left = random.Random(number), megabytes * 1e6
        with (folder / f"{number:03}.jsonl").open("w", encoding="utf-8") as file:
            while left > 0:
                is_copy = copies and generator.random() < _COPY_FRACTION
                text = (
                    generator.choice(copies)
                    if is_copy
                    else " ".join(generator.choices(words, k=_WORDS_PER_DOCUMENT))
                )
                if number == 0 and len(copies) < 100:
                    copies.append(text)
                left -= file.write(json.dumps({"text": text}) + "\n")


def run_stages(documents: Path, root: Path, log: Path) -> list[Sample]:
    """Both stages in this process, in new tables below `root`."""
    from jobs import corpus, dataset
    from jobs.shell import settings as configuration

    source = f"{{name: s, path: {documents}, format: jsonl, fields: {{text: text}}}}"
    conf = {**_CONF, "spark.eventLog.dir": log.as_uri()}
    settings = configuration.load(
        overrides=[
            f"root={root}",
            f"corpus.sources=[{source}]",
            "dataset.task=language_modelling",
            "dataset.packing.method=concatenate",
            "dataset.packing.sequence_length=1024",
            "dataset.tokenizer.max_bytes=5000000",
            "spark={" + ", ".join(f'{key}: "{value}"' for key, value in conf.items()) + "}",
        ]
    )
    samples = []
    for name, stage in zip(STAGES, (corpus, dataset), strict=True):
        config = settings.section(name, stage.Config)
        started = time.time()
        with watch_memory() as peaks:
            stage.main(config)
        samples.append({"stage": name, "started": started, "ended": time.time(), **peaks})
        samples[-1] |= measure_table(config.documents if stage is corpus else config.sequences, root)
    return samples


def measure(factor: int, megabytes: float, folder: Path) -> list[Sample]:
    """The samples of one size, from a process of its own."""
    documents, place, log = folder / "documents", folder / "root", folder / "events"
    log.mkdir(parents=True)
    write_documents(documents, factor, megabytes)
    command = [sys.executable, "-m", "benchmarks.growth", "--only", str(folder)]
    finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode:
        raise RuntimeError(f"{factor}x: {(finished.stdout + finished.stderr)[-2_000:]}")
    samples: list[Sample] = json.loads((place / "samples.json").read_text(encoding="utf-8"))
    add_shuffles(samples, log)
    for sample in samples:
        sample["factor"], sample["seconds"] = factor, sample["ended"] - sample["started"]
        sample["input_bytes"] = sum(file.stat().st_size for file in documents.iterdir())
        sample["seconds_per_row"] = sample["seconds"] / sample["rows"]
        sample["shuffle_bytes_per_row"] = sample["shuffle_bytes"] / sample["rows"]
    return samples


def compute_growth(samples: list[Sample]) -> dict[str, float]:
    """Growth from the smaller to the largest size: of the slope of seconds over rows, and of the others from
    4x to 16x."""
    first, middle, last = sorted(samples, key=lambda sample: sample["factor"])

    def slope(low: Sample, high: Sample) -> float:
        return (high["seconds"] - low["seconds"]) / (high["rows"] - low["rows"])

    growth = {name: last[name] / max(middle[name], 1e-9) for name in COLUMNS[1:]}
    return {"slope_of_seconds": slope(middle, last) / slope(first, middle), **growth}


def report(samples: list[Sample], megabytes: float) -> dict[str, Any]:
    """Print the table and the growth; draw the plot; the numbers for the file."""
    table = Table("stage", "input", "rows", *COLUMNS)
    for sample in samples:
        numbers = [
            f"{sample[name]:,.4g}" if sample[name] < 1e4 else f"{sample[name]:,.0f}" for name in COLUMNS
        ]
        table.add_row(sample["stage"], f"{sample['factor']}x", f"{sample['rows']:,}", *numbers)
    console.print(table)
    growth = {stage: compute_growth([s for s in samples if s["stage"] == stage]) for stage in STAGES}
    for stage, found in growth.items():
        for name, value in found.items():
            verdict = "met" if value <= MAX_GROWTH else "not met"
            console.print(f"{stage}: {name} grows by a factor of {value:.2f}: {verdict} ({MAX_GROWTH})")
    draw(samples, RESULT.with_suffix(".png"))
    measured = {"machine": describe_machine(), "input_bytes": max(s["input_bytes"] for s in samples)}
    write_json(COEFFICIENTS, {**measured, "coefficients": asdict(find_coefficients(samples))})
    return {"megabytes_1x": megabytes, "samples": samples, "growth": growth, "max_growth": MAX_GROWTH}


def find_coefficients(samples: list[Sample]) -> Coefficients:
    """What `capacity` computes with: rates are slopes from 4x to 16x, so the start does not count."""
    by_stage = {stage: [s for s in samples if s["stage"] == stage] for stage in STAGES}
    (_, middle, documents), (_, half, sequences) = (
        sorted(by_stage[stage], key=lambda sample: sample["factor"]) for stage in STAGES
    )

    def rate(low: Sample, high: Sample) -> float:
        return (high["input_bytes"] - low["input_bytes"]) / (high["seconds"] - low["seconds"]) / SLOTS

    num_bytes = documents["input_bytes"]
    return Coefficients(
        document_bytes=num_bytes / documents["rows"],
        tokens_per_byte=sequences["tokens"] / num_bytes,
        corpus_bytes_per_second=rate(middle, documents),
        corpus_shuffle_bytes_per_document=documents["shuffle_bytes_per_row"],
        documents_bytes_per_text_byte=documents["table_bytes"] / num_bytes,
        dataset_bytes_per_second=rate(half, sequences),
        dataset_shuffle_bytes_per_text_byte=sequences["shuffle_bytes"] / num_bytes,
        sequences_bytes_per_token=sequences["table_bytes"] / sequences["tokens"],
        copy_bytes_per_token=sequences["copy_bytes"] / sequences["copied_tokens"],
        worker_bytes=max(sample["worker_bytes"] for sample in samples),
        jvm_bytes=max(sample["jvm_bytes"] for sample in samples),
    )


def draw(samples: list[Sample], target: Path) -> None:
    """One panel a quantity, over the rows; both axes start at 0 so that growth shows as it is."""
    figure = matplotlib.figure.Figure(figsize=(15, 3.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(COLUMNS)), COLUMNS, strict=True):
        for stage in STAGES:
            own = [sample for sample in samples if sample["stage"] == stage]
            axes.plot([s["factor"] for s in own], [s[name] for s in own], marker="o", label=stage)
        axes.set(title=name.replace("_", " "), xlabel="times the input", ylim=(0, None), xticks=FACTORS)
    axes.legend()
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=120)


Megabytes = Annotated[float, typer.Option(min=0.1, help="Size of 1x; 30 takes about 10 minutes.")]
Only = Annotated[Path | None, typer.Option(hidden=True)]


def main(megabytes: Megabytes = 30.0, only: Only = None) -> None:
    if only is not None:
        write_documents(only / "warm", 1, 1.0)
        run_stages(only / "warm", only / "warm-root", only / "events")
        samples = run_stages(only / "documents", only / "root", only / "events")
        (only / "root" / "samples.json").write_text(json.dumps(samples), encoding="utf-8")
        return

    def measure_all() -> dict[str, Any]:
        samples = []
        for factor in FACTORS:
            with tempfile.TemporaryDirectory(prefix="growth-") as folder:
                console.print(f"{factor}x")
                samples += measure(factor, megabytes, Path(folder))
        return report(samples, megabytes)

    run_benchmark(measure_all, RESULT)


main.__doc__ = __doc__

if __name__ == "__main__":
    typer.run(main)
