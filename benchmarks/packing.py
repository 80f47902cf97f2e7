"""How well best_fit fills sequences, and how many documents a second one core packs, beside concatenate.

The books of data/gutenberg_en become tokens once; documents are 50 to 4,000 tokens of them from all places,
all lengths equally often. They are packed in groups, as in a build.

| column | what is measured |
|---|---|
| choice | lengths to rows: the algorithm of best_fit alone |
| packing | examples to packed rows, as views |
| joined | also their segments, targets and copied tokens, ready for Arrow, and the count of all tokens |

Everything runs in one thread. Its processor time is taken, which other programs hardly change. The first
round is printed but not counted. Exit status: 0, also if the bar is missed; 2 if something failed.
"""

import gzip
import statistics
import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from rich.table import Table

from benchmarks.books import BOOKS
from benchmarks.measuring import run_benchmark
from jobs.shell.display import console
from pipelines.dataset.examples.encode import TextEncoder
from pipelines.dataset.examples.example import Example, Unit
from pipelines.dataset.packing.best_fit import find_best_fit
from pipelines.dataset.packing.conservation import TokenCount
from pipelines.dataset.packing.packed import PackedSequence, join_rows
from pipelines.dataset.packing.table import load_packer
from pipelines.dataset.tokenizer import train_bpe

RESULT = Path(__file__).parent / "results" / "packing.json"
LENGTH, MIN_TOKENS, MAX_TOKENS, VOCAB_SIZE = 1_024, 50, 4_000, 8_192
MIN_EFFICIENCY, MIN_DOCUMENTS = 0.998, 100_000
"""The bars: tokens / (sequences x LENGTH), and documents per second from examples to packed rows."""
GROUP_MB = (4, 12, 16)
"""The smallest group of a file, the smallest of several, and the default."""
METHODS = ("best_fit", "concatenate")
JOINED_ROWS = 488
"""About group.BATCH_TOKENS."""

Groups = list[list[Example]]


class Measured(NamedTuple):
    """Of all groups together; rates are documents per second."""

    efficiency: float
    continued: int
    """Pieces that continue a document of another sequence."""
    choice: float
    packing: float
    joined: float


def encode_books() -> tuple[Unit, float]:
    """All books as one unit, and their bytes of text per token."""
    texts = [gzip.decompress(file.read_bytes()).decode() for file in sorted(BOOKS.rglob("*.gz"))]
    encoder = TextEncoder(train_bpe(iter(texts), vocab_size=VOCAB_SIZE))
    columns = zip(*(encoded[:4] for encoded in encoder.encode(texts)), strict=True)
    ids, char_start, char_end, num_bytes = (np.concatenate(column) for column in columns)
    unit = Unit(ids, np.ones(len(ids), dtype=bool), char_start, char_end, num_bytes)
    return unit, sum(len(text.encode()) for text in texts) / len(ids)


def make_groups(books: Unit, num_groups: int, tokens_per_group: float) -> Groups:
    """Groups of documents from all places of the books, the same at every call."""
    generator, groups = np.random.default_rng(0), Groups()
    for _ in range(num_groups):
        group, left = list[Example](), tokens_per_group
        while left > 0:
            size = int(generator.integers(MIN_TOKENS, MAX_TOKENS + 1))
            start = int(generator.integers(len(books.input_ids) - size))
            unit = Unit(*(array[start : start + size] for array in books))
            group.append(Example(f"{len(groups):04x}{len(group):028x}", [unit]))
            left -= size
        groups.append(group)
    return groups


def measure(groups: Groups, method: str) -> Measured:
    """Pack every group once for each column."""
    packer, num_documents = load_packer(method), sum(map(len, groups))
    seconds = {"choice": 0.0, "packing": 0.0, "joined": 0.0}
    num_tokens = num_rows = num_continued = 0
    for number, group in enumerate(groups):
        lengths = np.array([len(example.units[0].input_ids) for example in group])
        begun = time.thread_time()
        if method == "best_fit":
            _choose(lengths)
        chosen = time.thread_time()
        for row in packer(group, length=LENGTH):
            num_rows += 1
            num_continued += row.num_continued
        packed = time.thread_time()
        _join(group, method, number)
        joined = time.thread_time()
        times = (chosen - begun, packed - chosen, joined - packed)
        seconds = {name: seconds[name] + more for name, more in zip(seconds, times, strict=True)}
        num_tokens += int(lengths.sum())
    rates = {name: num_documents / value for name, value in seconds.items()}
    return Measured(num_tokens / (num_rows * LENGTH), num_continued, **rates)


def _choose(lengths: np.ndarray) -> None:
    lasts = lengths % LENGTH
    find_best_fit(np.concatenate([np.full((lengths // LENGTH).sum(), LENGTH), lasts[lasts > 0]]), LENGTH)


def _join(group: list[Example], method: str, number: int) -> None:
    """What a task does with a group: pack, join, count."""
    count, batch = TokenCount(), list[PackedSequence]()
    for row in load_packer(method)(count.add_examples(group), length=LENGTH):
        batch.append(row)
        if len(batch) == JOINED_ROWS:
            count.remove_rows(join_rows(batch))
            batch = []
    if batch:
        count.remove_rows(join_rows(batch))
    count.require_balance(split="train", group=number, method=method)


def run_rounds(megabytes: float, rounds: int) -> dict[str, list[Measured]]:
    """By method and group size, the warm-up first."""
    books, bytes_per_token = encode_books()
    console.print(f"{len(books.input_ids):,} tokens of books, {bytes_per_token:.2f} bytes each")
    samples: dict[str, list[Measured]] = {}
    for group_mb in GROUP_MB:
        num_groups = max(1, round(megabytes / group_mb))
        groups = make_groups(books, num_groups, group_mb * 2**20 / bytes_per_token)
        for number in range(rounds + 1):
            for method in METHODS:
                found = measure(groups, method)
                samples.setdefault(f"{method}, groups of {group_mb} MiB", []).append(found)
                turn = f"round {number} of {rounds}" if number else "warm-up"
                console.print(f"{turn}: {method}, {num_groups} groups of {group_mb} MiB: {found}")
    return samples


def report(samples: dict[str, list[Measured]]) -> dict[str, Any]:
    """Print the table; its numbers for the file."""
    table = Table("documents/s, one core", "efficiency", "continued", "choice", "packing", "joined")
    verdicts: dict[str, bool] = {}
    for name, (first, *counted) in samples.items():
        choice, packing, joined = (
            statistics.median(getattr(one, rate) for one in counted)
            for rate in ("choice", "packing", "joined")
        )
        is_ours = name.startswith("best_fit")
        if is_ours:
            verdicts[name] = first.efficiency >= MIN_EFFICIENCY and packing >= MIN_DOCUMENTS
        rates = (f"{choice:,.0f}" if is_ours else "", f"{packing:,.0f}", f"{joined:,.0f}")
        table.add_row(name, f"{first.efficiency:.5f}", f"{first.continued:,}", *rates)
    console.print(table)
    for name, met in verdicts.items():
        console.print(
            f"{name}: bar {'met' if met else 'not met'} (efficiency at least {MIN_EFFICIENCY}, "
            f"packing at least {MIN_DOCUMENTS:,} documents/s)"
        )
    found = {name: [one._asdict() for one in measured] for name, measured in samples.items()}
    return {"samples": found, "met": verdicts}


Rounds = Annotated[int, typer.Option(min=1, help="Counted rounds.")]
Megabytes = Annotated[float, typer.Option(min=16, help="MB of text in all groups of one size.")]
Output = Annotated[Path, typer.Option(dir_okay=False, help="JSON file with every sample and the machine.")]


def main(rounds: Rounds = 3, megabytes: Megabytes = 256, output: Output = RESULT) -> None:
    run_benchmark(lambda: report(run_rounds(megabytes, rounds)), output, megabytes=megabytes)


main.__doc__ = __doc__

if __name__ == "__main__":
    typer.run(main)
