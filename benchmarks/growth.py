"""Growth: stages at 1x, 4x and 16x input. Cost must grow with the rows and with nothing else.

The stages are corpus, dataset, corpus with near duplicates, and scoring with a model that takes almost no
time (`stages`). For each size one process starts Spark, runs them on another small input (so that code is
loaded and compiled), and then on its input, into new tables. Measured of the second run only:

- seconds, and seconds per row (corpus: records, dataset: sequences, scoring: predictions)
- bytes that Spark's shuffles wrote, per row, from Spark's event log
- peak resident memory of the JVM that is driver and executor. Its heap is the same at every size, and in
  memory from the start, so what can grow is the memory outside of it; that a larger input needs no larger
  heap is seen in the share of the time that the JVM collects garbage, which is printed
- peak resident memory of the largest Python worker

A start costs the same at every size, so seconds per row fall from 1x to 4x. What a row costs beyond the start
is the slope between two sizes: it must not grow from (1x, 4x) to (4x, 16x). Each file has copies of documents
of the first one, and near duplicates of its own documents, so both grow with the input.

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
from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import matplotlib.figure
import typer
from rich.table import Table

from benchmarks.costs import COEFFICIENTS, Coefficients
from benchmarks.measuring import describe_machine, run_benchmark, write_json
from benchmarks.samples import Sample, add_shuffles
from benchmarks.stages import DATA_STAGES, SLOTS, STAGES, run_data_stages, run_scoring
from jobs.shell.display import console

FACTORS = (1, 4, 16)
MAX_GROWTH = 1.10
RESULT = Path(__file__).parent / "results" / "growth.json"
COLUMNS = ("seconds", "seconds_per_row", "shuffle_bytes_per_row", "jvm_bytes", "worker_bytes")
SHOWN = (*COLUMNS, "garbage_fraction")
_WORDS_PER_DOCUMENT = 600
_COPY_FRACTION = 0.02
_NEAR_FRACTION = 0.05
"""Documents with _CHANGED_WORDS words other than those of one of the last _NUM_RECENT: Jaccard about 0.9."""
_CHANGED_WORDS, _NUM_RECENT = 6, 20


def write_documents(folder: Path, factor: int, megabytes: float) -> None:
    """`factor` JSON Lines files of so many MB, each with its own documents."""
    folder.mkdir(parents=True)
    words = ["".join(random.Random(n).choices("abcdefghijklmnopqrst", k=2 + n % 8)) for n in range(20_000)]
    copies: list[str] = []
    for number in range(factor):
        generator, left, recent = random.Random(number), megabytes * 1e6, deque[list[str]](maxlen=_NUM_RECENT)
        with (folder / f"{number:03}.jsonl").open("w", encoding="utf-8") as file:
            while left > 0:
                kind = generator.random()
                if copies and kind < _COPY_FRACTION:
                    text = generator.choice(copies)
                elif recent and kind > 1 - _NEAR_FRACTION:
                    text = " ".join(change_words(generator.choice(recent), generator))
                else:
                    recent.append(generator.choices(words, k=_WORDS_PER_DOCUMENT))
                    text = " ".join(recent[-1])
                    if number == 0 and len(copies) < 100:
                        copies.append(text)
                left -= file.write(json.dumps({"text": text}) + "\n")


def change_words(words: list[str], generator: random.Random) -> list[str]:
    """A copy with _CHANGED_WORDS words that no other document has."""
    changed = list(words)
    for place in generator.sample(range(len(words)), _CHANGED_WORDS):
        changed[place] = f"changed{generator.getrandbits(48):x}"
    return changed


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
        sample["factor"] = factor
        sample["seconds"] = sample["ended"] - sample["started"]
        sample["garbage_fraction"] = sample["garbage_seconds"] / sample["seconds"]
        sample["input_bytes"] = sum(file.stat().st_size for file in documents.iterdir())
        sample["seconds_per_row"] = sample["seconds"] / sample["rows"]
        sample["shuffle_bytes_per_row"] = sample["shuffle_bytes"] / sample["rows"]
        model_seconds = sample.get("model_seconds", 0.0)
        sample["data_path_seconds"] = compute_data_path_seconds(sample["seconds"], model_seconds)
    return samples


def compute_data_path_seconds(seconds: float, model_seconds: float) -> float:
    """Seconds without the time in the model, of which all slots together had `model_seconds`: they work at
    the same time."""
    return seconds - model_seconds / SLOTS


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
    table = Table("stage", "input", "rows", *SHOWN)
    for sample in samples:
        numbers = [f"{sample[name]:,.4g}" if sample[name] < 1e4 else f"{sample[name]:,.0f}" for name in SHOWN]
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
    sizes = {
        stage: sorted((s for s in samples if s["stage"] == stage), key=lambda sample: sample["factor"])
        for stage in STAGES
    }
    documents, sequences, search, predictions = (sizes[stage][-1] for stage in STAGES)
    num_bytes = documents["input_bytes"]

    def rate(stage: str) -> float:
        _, low, high = sizes[stage]
        more_seconds = high["data_path_seconds"] - low["data_path_seconds"]
        return (high["input_bytes"] - low["input_bytes"]) / more_seconds / SLOTS

    return Coefficients(
        document_bytes=num_bytes / documents["rows"],
        tokens_per_byte=sequences["tokens"] / num_bytes,
        corpus_bytes_per_second=rate("corpus"),
        corpus_shuffle_bytes_per_document=documents["shuffle_bytes_per_row"],
        documents_bytes_per_text_byte=documents["table_bytes"] / num_bytes,
        near_duplicates_bytes_per_second=rate("near_duplicates"),
        near_duplicates_shuffle_bytes_per_document=search["shuffle_bytes_per_row"],
        near_duplicates_kept_bytes_per_document=search["search_bytes"] / search["rows"],
        near_duplicates_held_bytes_per_document=search["held_bytes"] / search["rows"],
        near_pairs_per_document=search["near_pairs"] / search["rows"],
        dataset_bytes_per_second=rate("dataset"),
        dataset_shuffle_bytes_per_text_byte=sequences["shuffle_bytes"] / num_bytes,
        sequences_bytes_per_token=sequences["table_bytes"] / sequences["tokens"],
        copy_bytes_per_token=sequences["copy_bytes"] / sequences["copied_tokens"],
        scoring_bytes_per_second=rate("scoring"),
        scoring_shuffle_bytes_per_text_byte=predictions["shuffle_bytes"] / num_bytes,
        predictions_bytes_per_text_byte=predictions["table_bytes"] / num_bytes,
        worker_bytes=max(sample["worker_bytes"] for stage in DATA_STAGES for sample in sizes[stage]),
        scoring_worker_bytes=max(sample["worker_bytes"] for sample in sizes["scoring"]),
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


Megabytes = Annotated[float, typer.Option(min=0.1, help="Size of 1x; 30 takes about 15 minutes.")]
Only = Annotated[Path | None, typer.Option(hidden=True)]


def main(megabytes: Megabytes = 30.0, only: Only = None) -> None:
    if only is not None:
        write_documents(only / "warm", 1, 1.0)
        warm, root, log = only / "warm-root", only / "root", only / "events"
        run_data_stages(only / "warm", warm, log)
        samples = run_data_stages(only / "documents", root, log)
        # Last, because its workers stay for a minute with torch in their memory.
        run_scoring(warm)
        samples += run_scoring(root)
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
