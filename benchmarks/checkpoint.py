"""What checkpoints cost: the time of a training, and the memory of writing and reading.

Cost: a decoder of 100 million parameters, one rank, AdamW. Rounds of plain steps, then a checkpoint and
steps until its files are complete. The cost is what `save` takes and what the steps beside the writing take
longer than plain ones (their median), as a share of 100 plain steps. Bar: 2 %. Beside it the same in the
foreground.

Memory: 2 billion parameters (weights and two moments in float32, 24 GB) as one shard for each of 8 ranks,
which write and read one after the other, each in a process of its own. Measured is the peak of resident
memory above the state itself, as a share of the bytes of the largest shard. Bar: 1.2. In the foreground and
while reading it does not depend on the shard.

Needs 13 bytes of disk for each parameter of the second part. Exit status: 0, also if a bar is missed; 2 if
something failed.
"""

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from rich.table import Table
from torch import Tensor

from benchmarks.measuring import run_benchmark
from jobs.shell.display import console
from pipelines.dataset.rows import NO_LABEL, Rows
from pipelines.finetune.checkpoint.format import Piece, PieceState, TrainState, read_record
from pipelines.finetune.checkpoint.part import WEIGHT, Part
from pipelines.finetune.checkpoint.reading import read_pieces
from pipelines.finetune.checkpoint.writer import CheckpointWriter
from pipelines.finetune.models.architecture import Architecture, ModelSpec
from pipelines.finetune.models.build import build_model
from pipelines.finetune.optimization import Optimization
from pipelines.finetune.parallel.single import SingleProcess
from pipelines.finetune.precision import use_precision
from pipelines.finetune.tasks.language_modelling import LanguageModelling
from pipelines.storage import Folder

RESULT = Path(__file__).parent / "results" / "checkpoint.json"
STEPS_PER_CHECKPOINT, COST_BAR, MEMORY_BAR = 100, 0.02, 1.2
VOCABULARY, MAX_TOKENS = 10_000, 1024
MODEL = {
    "model_type": "llama",
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "max_position_embeddings": MAX_TOKENS,
}
PIECE_ELEMENTS = 2**24
"""Of a parameter in the second part, such as 4,096 x 4,096."""
FIELDS = ("exp_avg", "exp_avg_sq")


class Cost(NamedTuple):
    """Medians over rounds, in seconds."""

    step: float
    """A plain one."""
    save: float
    """How long the training stands still."""
    writing: float
    """From the start to complete files."""
    share: float
    """All that a checkpoint costs, over STEPS_PER_CHECKPOINT plain steps."""


def measure_cost(place: Path, *, in_background: bool, num_rounds: int, num_plain: int) -> Cost:
    """Train, and write a checkpoint in each round."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.type == "cuda"
    strategy, checkpoints = SingleProcess(device), Folder(str(place))
    spec = ModelSpec(
        task="language_modelling", labels=(), max_tokens=MAX_TOKENS, base="scratch", tokenizer=""
    )

    def build(load_weights: bool) -> torch.nn.Module:
        model = build_model(Architecture(config=MODEL), spec, vocab_size=VOCABULARY, seed=0)
        use_precision(model, "bfloat16" if on_gpu else "float32", device)
        return model

    strategy.build(build, Optimization(), num_micro_batches=1, checkpoints=Folder(str(place / "none")))
    task = LanguageModelling(spec)
    batch = task.collate(make_rows(32 if on_gpu else 2, 1024 if on_gpu else 128), device)

    def step() -> float:
        started = time.perf_counter()
        strategy.forward_backward([batch], task, num_targets=batch.inputs["input_ids_BT"].numel())
        strategy.step(max_norm=1.0, learning_rate=1e-5)
        return time.perf_counter() - started

    for _ in range(3):
        step()
    rounds = []
    with CheckpointWriter(checkpoints, strategy, 1, in_background) as writer:
        for number in range(1, num_rounds + 1):
            plain = [step() for _ in range(num_plain)]
            started = time.perf_counter()
            strategy.save(writer, TrainState(step=number))
            save, beside = time.perf_counter() - started, []
            while not checkpoints.exists(f"step-{number:08d}/complete.json"):
                beside.append(step())
            writing = time.perf_counter() - started
            usual = statistics.median(plain)
            extra = save + sum(beside) - usual * len(beside)
            rounds.append(Cost(usual, save, writing, extra / usual / STEPS_PER_CHECKPOINT))
    # The first copy makes its blocks: a training does that once.
    return Cost(*(statistics.median(values) for values in zip(*rounds[1:], strict=True)))


def make_rows(num_rows: int, length: int) -> Rows:
    random = np.random.default_rng(0)
    ids = random.integers(0, VOCABULARY, (num_rows, length)).astype(np.int32)
    return Rows(
        input_ids=list(ids),
        is_target=[np.arange(length) > 0] * num_rows,
        segment_lengths=[np.array([length], dtype=np.int32)] * num_rows,
        labels=np.full(num_rows, NO_LABEL),
        num_targets=np.full(num_rows, length - 1),
        num_bytes=np.full(num_rows, length),
    )


class Rank:
    """One that writes without waiting for the others."""

    def __init__(self, rank: int) -> None:
        self.rank, self.device = rank, torch.device("cpu")

    def sum(self, value: Tensor, *, name: str) -> Tensor:
        return value


def list_pieces(num_parameters: int, rank: int, num_ranks: int) -> list[Piece]:
    """What the rank owns of parameters of PIECE_ELEMENTS, end to end."""
    start, stop = (num_parameters * each // num_ranks for each in (rank, rank + 1))
    pieces = []
    for number in range(start // PIECE_ELEMENTS, -(-stop // PIECE_ELEMENTS)):
        first = number * PIECE_ELEMENTS
        piece = (max(start, first) - first, min(stop, first + PIECE_ELEMENTS) - first)
        pieces.append(Piece(f"layer.{number}", *piece))
    return pieces


def make_state(pieces: list[Piece], value: float) -> dict[str, dict[Piece, Tensor]]:
    """Weights and moments; all pages are touched."""
    return {
        field: {piece: torch.full((piece.stop - piece.start,), value) for piece in pieces}
        for field in (WEIGHT, *FIELDS)
    }


def write_shard(
    place: Path, num_parameters: int, rank: int, num_ranks: int, *, in_background: bool
) -> tuple[float, int]:
    """Peak of memory above the state over its bytes, and these. Rank 0 is the last one."""
    pieces = list_pieces(num_parameters, rank, num_ranks)
    state = make_state(pieces, rank + 1.0)
    num_bytes = sum(tensor.nbytes for each in state.values() for tensor in each.values())
    part = Part(
        weight_pieces=state[WEIGHT],
        states={piece: {field: state[field][piece] for field in FIELDS} for piece in pieces},
        number=rank,
        num_parts=num_ranks,
    )

    def write() -> None:
        with CheckpointWriter(Folder(str(place)), Rank(rank), 1, in_background) as writer:
            writer.write(part, TrainState(step=1))

    return measure_growth(write) / num_bytes, num_bytes


def read_shard(place: Path, num_parameters: int, rank: int, num_ranks: int) -> tuple[float, int]:
    """As `write_shard`, for what the rank reads into tensors that it has."""
    pieces, checkpoints = list_pieces(num_parameters, rank, num_ranks), Folder(str(place))
    state = make_state(pieces, 0.0)
    num_bytes = sum(tensor.nbytes for each in state.values() for tensor in each.values())

    def make(piece: Piece) -> PieceState:
        return {field: state[field][piece] for field in state}

    def read() -> None:
        record = read_record(checkpoints, 1)
        read_pieces(checkpoints, record, pieces, files=record.files.weights, make=make)
        read_pieces(checkpoints, record, pieces, make=make)

    growth = measure_growth(read)
    if any((tensor != rank + 1).any() for each in state.values() for tensor in each.values()):
        raise RuntimeError(f"rank {rank} read something else than it wrote")
    return growth / num_bytes, num_bytes


def measure_growth(work: Callable[[], None]) -> int:
    """Bytes by which `work` raises the peak of resident memory of this process."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts again
    before = read_status("VmRSS")
    work()
    return max(0, read_status("VmHWM") - before)


def read_status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def measure_memory(place: Path, num_parameters: int, num_ranks: int) -> dict[str, float]:
    """The largest share of any rank, by what it did."""
    found: dict[str, float] = {}
    works: dict[str, Callable[[Path, int, int, int], tuple[float, int]]] = {
        "background": partial(write_shard, in_background=True),
        "foreground": partial(write_shard, in_background=False),
        "reading": read_shard,
    }
    for kind, work in works.items():
        for rank in reversed(range(num_ranks)):
            # A new process, whose memory nothing else has raised.
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                share, num_bytes = pool.submit(work, place, num_parameters, rank, num_ranks).result()
            console.print(f"{kind}, rank {rank}: {share:.3f} of {num_bytes:,} bytes")
            found[kind] = max(found.get(kind, 0.0), share)
    return found


def run(place: Path, num_rounds: int, num_plain: int, num_parameters: int, num_ranks: int) -> dict[str, Any]:
    costs = {
        kind: measure_cost(
            place / kind, in_background=kind == "background", num_rounds=num_rounds + 1, num_plain=num_plain
        )
        for kind in ("background", "foreground")
    }
    table = Table("100 million parameters", *Cost._fields)
    for kind, cost in costs.items():
        table.add_row(kind, *(f"{value:.2f} s" for value in cost[:3]), f"{cost.share:.2%}")
    console.print(table)
    memory = measure_memory(place / "memory", num_parameters, num_ranks) if num_parameters else {}
    cost_met = costs["background"].share <= COST_BAR
    memory_met = all(share <= MEMORY_BAR for share in memory.values())
    console.print(
        f"bar of time {'met' if cost_met else 'not met'}, of memory {'met' if memory_met else 'not met'}"
    )
    return {
        "costs": {kind: cost._asdict() for kind, cost in costs.items()},
        "memory": memory,
        "num_parameters": num_parameters,
        "num_ranks": num_ranks,
        "met": cost_met and memory_met,
    }


Output = Annotated[
    Path, typer.Option(dir_okay=False, help="JSON file with the measurements and the machine.")
]


def main(
    output: Output = RESULT,
    rounds: Annotated[int, typer.Option(help="Checkpoints that are measured.")] = 5,
    plain: Annotated[int, typer.Option(help="Plain steps before each.")] = 10,
    parameters: Annotated[int, typer.Option(help="Of the second part; 0 leaves it out.")] = 2_000_000_000,
    ranks: Annotated[int, typer.Option(help="Shards of the second part.")] = 8,
) -> None:
    with tempfile.TemporaryDirectory() as place:
        run_benchmark(lambda: run(Path(place), rounds, plain, parameters, ranks), output)


main.__doc__ = __doc__

if __name__ == "__main__":
    typer.run(main)
