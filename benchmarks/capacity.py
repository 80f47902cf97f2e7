"""Capacity: what the stages cost for other amounts of text and on other clusters (`costs`), from coefficients
that `benchmarks.growth` has measured (coefficients.json, with the machine and the date).

Writes the tables of docs/scale.md. A column says how much storage must deliver for the times to hold.
"""

import json
import textwrap
from pathlib import Path

import typer

from benchmarks.costs import (
    COEFFICIENTS,
    Coefficients,
    CostOf,
    cost_corpus,
    cost_dataset,
    cost_near_duplicates,
    cost_scoring,
)

GB, TB = 10**9, 10**12
SIZES = {"1 GB": GB, "1 TB": TB, "100 TB": 100 * TB}
SLOTS = (2, 64, 1_024)
GUIDE = Path(__file__).parent.parent / "docs" / "scale.md"
START, END = (
    "<!-- computed by benchmarks.capacity: start -->",
    "<!-- computed by benchmarks.capacity: end -->",
)


def format_bytes(num_bytes: float) -> str:
    for name, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= size:
            return f"{num_bytes / size:,.3g} {name}"
    return f"{num_bytes / 1e3:,.3g} kB"


def format_time(seconds: float) -> str:
    for name, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{round_number(seconds / size)} {name}"
    return f"{round_number(seconds)} s"


def round_number(number: float) -> str:
    """Three digits, never as a power of ten."""
    return f"{float(f'{number:.3g}'):,.10g}"


def make_stage_table(cost_of: CostOf, known: Coefficients) -> list[str]:
    head = "| text | slots | time | tasks | shuffled | written | requests | driver | storage MB/s |"
    lines = [head, "|" + "---|" * 9]
    for size, num_bytes in SIZES.items():
        for slots in SLOTS:
            cost = cost_of(num_bytes, slots, known)
            row = [size, f"{slots:,}", format_time(cost.seconds), f"{cost.num_tasks:,}"]
            row += [format_bytes(cost.shuffle_bytes), format_bytes(cost.written_bytes)]
            row += [round_number(cost.requests), format_bytes(cost.driver_bytes)]
            row += [round_number(cost.storage_bytes_per_second / 1e6)]
            lines.append(f"| {' | '.join(row)} |")
    return lines


def make_training_table(known: Coefficients) -> list[str]:
    lines = ["| text | tokens | sequences table | disk of each training host |", "|---|---|---|---|"]
    for size, num_bytes in SIZES.items():
        tokens = num_bytes * known.tokens_per_byte
        table, copies = tokens * known.sequences_bytes_per_token, tokens * known.copy_bytes_per_token
        billions = round_number(tokens / 1e9)
        lines.append(f"| {size} | {billions} billion | {format_bytes(table)} | {format_bytes(copies)} |")
    return lines


def make_model_table(known: Coefficients) -> list[str]:
    """Time to be added to scoring for each millisecond that a document takes in the model."""
    head = "| text | documents | " + " | ".join(f"{slots:,} slots" for slots in SLOTS) + " |"
    lines = [head, "|" + "---|" * (2 + len(SLOTS))]
    for size, num_bytes in SIZES.items():
        documents = num_bytes / known.document_bytes
        times = [format_time(documents / 1_000 / slots) for slots in SLOTS]
        lines.append(f"| {' | '.join([size, f'{round_number(documents / 1e6)} million', *times])} |")
    return lines


def make_coefficient_table(measured: dict) -> list[str]:
    cpus, at, num_bytes = measured["machine"]["cpus"], measured["machine"]["at"], measured["input_bytes"]
    lines = [f"Measured at {at} on {cpus} cores with up to {format_bytes(num_bytes)} of input.", ""]
    lines += [textwrap.fill(measured["note"], 110), ""] if "note" in measured else []
    lines += ["| coefficient | value |", "|---|---|"]
    return lines + [
        f"| {name.replace('_', ' ')} | {round_number(value)} |"
        for name, value in measured["coefficients"].items()
    ]


def make_tables(measured: dict) -> str:
    """The computed part of the guide, in Markdown."""
    known = Coefficients(**measured["coefficients"])
    parts = {
        "corpus": make_stage_table(cost_corpus, known),
        "corpus, near duplicates": make_stage_table(cost_near_duplicates, known),
        "dataset": make_stage_table(cost_dataset, known),
        "finetune": make_training_table(known),
        "scoring": make_stage_table(cost_scoring, known),
        "scoring, for each millisecond that a document takes in the model": make_model_table(known),
        "Coefficients": make_coefficient_table(measured),
    }
    return "\n\n".join(f"### {title}\n\n" + "\n".join(lines) for title, lines in parts.items())


def fill_guide(guide: str, tables: str) -> str:
    """The guide with its computed part replaced. Raises ValueError if it has no place for it."""
    before, start, rest = guide.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ValueError(f"the guide has no part between {START} and {END}")
    return f"{before}{START}\n{tables}\n{END}{after}"


def main() -> None:
    measured = json.loads(COEFFICIENTS.read_text(encoding="utf-8"))
    filled = fill_guide(GUIDE.read_text(encoding="utf-8"), make_tables(measured))
    GUIDE.write_text(filled, encoding="utf-8")
    print(f"written {GUIDE}")


main.__doc__ = __doc__

if __name__ == "__main__":
    typer.run(main)
