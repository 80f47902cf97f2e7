"""`distributary trace`: the run that is meant, and its answers as a table or as JSON."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from jobs.shell.display import console
from jobs.shell.redaction import redact
from pipelines.registry.lookup import Lookup
from pipelines.registry.runs.current import read_current
from pipelines.registry.runs.data import RunData
from pipelines.registry.runs.trace import Answer, RunTrace

_VERSION = re.compile(r"models:/(?P<name>.+)[/@](?P<version>[^/@]+)")
_CONTROLS = re.compile("[\x7f-\x9f]")
MAX_ROWS = 1000
"""Lines of a table for a person; --json has all."""
WITHOUT_LOSSES = (
    "The run did not record the losses of its sequences: only logged points are looked at "
    "(finetune.log_every_steps), and all sequences of their steps are listed. To see which of them it was, "
    "train again with finetune.sequence_losses=true and another finetune.folder."
)
WITHOUT_RANKS = (
    "The run was continued with another number of ranks, so which rank had which sequence is not known: "
    "choose a number with --num-ranks."
)
MAX_TEXT = 200
"""Characters of a text in the table."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What is asked of which run: a step, of all ranks or of one, a document, or the spikes of the loss."""

    run: str | None
    step: int | None
    rank: int | None
    document: str | None
    num_ranks: int | None
    deviations: float | None = None
    """Of spikes; None = they are not asked for."""


def show_trace(config: Any, question: Question, *, text: bool, as_json: bool) -> None:
    """Print the answer; `config` is the finetune section."""
    run = find_run(config, question.run)
    choose = choose_num_ranks if question.deviations is None else find_num_ranks
    trace = RunTrace(run, choose(run, question.num_ranks))
    if question.deviations is not None:
        answer = find_spikes(config, trace, question.deviations)
    elif question.step is not None:
        answer = trace.trace_step(question.step, question.rank)
    else:
        answer = trace.trace_document(question.document or "")
    if text:
        trace.add_texts(answer)
    if as_json:
        print(format_json(answer))
    else:
        display_answer(answer)


def find_spikes(config: Any, trace: RunTrace, deviations: float) -> Answer:
    """The spikes of a run, from the losses of its sequences, or of the points in MLflow if it has none."""
    from pipelines.finetune.losses.read import read_losses
    from pipelines.registry.runs.spikes import trace_spikes

    run = trace.run
    losses, logged = read_losses(run.folder) if run.folder else None, dict[int, float]()
    if losses is None:
        lookup = Lookup(config.tracking.uri, config.tracking.artifacts)
        logged = lookup.read_history(run.run_id, "train/loss")
    return trace_spikes(trace, losses, logged, deviations=deviations)


def format_json(answer: Answer) -> str:
    """One line. Texts and names of columns stay as they are: only the table's place may hold a secret."""
    line = json.dumps(answer | {"table": redact(answer["table"])}, ensure_ascii=False)
    # DEL and C1: JSON lets them stand, and a terminal obeys them.
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", line)


def find_run(config: Any, name: str | None) -> RunData:
    """The run of an id or of models:/NAME/VERSION; without a name, the newest finished training of `config`.

    Raises FileNotFoundError if no training has finished, LookupError if there is no such run or version.
    """
    lookup = Lookup(config.tracking.uri, config.tracking.artifacts)
    if name is None:
        current = read_current(config.folder)
        if current is None:
            raise FileNotFoundError(
                f"no finished training in {config.folder}; run first: distributary finetune, or name a run "
                "with --run"
            )
        return lookup.read_run_data(current.run_id)
    version = _VERSION.fullmatch(name)
    run_id = lookup.find_version(version["name"], version["version"]).run_id if version else name
    return lookup.read_run_data(run_id)


def find_num_ranks(run: RunData, given: int | None) -> int | None:
    """The ranks of the run; None if it was continued with another number, and none is given."""
    return run.num_ranks if given is None and run.other_num_ranks is None else given


def choose_num_ranks(run: RunData, given: int | None) -> int:
    """As `find_num_ranks`, but raises ValueError instead of None."""
    found = find_num_ranks(run, given)
    if found is None:
        raise ValueError(
            f"run {run.run_id} began with {run.num_ranks} ranks and was continued with "
            f"{run.other_num_ranks}; the steps are the same, but not which rank had which sequence: choose "
            "one with --num-ranks"
        )
    return found


def display_answer(answer: Answer) -> None:
    """A line about the run, and a table with a line for each document of a sequence."""
    table, total = answer["table"], answer["total_steps"]
    run = f"run {answer['run']} ({answer['status']}, {total:,} steps)"
    place = f"sequences version {table['version']} at {table['path']}"
    console.print(redact(f"{run}, {place}"), markup=False)
    if "spikes" in answer:
        display_spikes(answer)
    elif "document" in answer:
        _display_document(answer)
    else:
        display_step(answer)
    if answer["model_of_step"] is not None and answer["model_of_step"] < total:
        best = answer["model_of_step"]
        console.print(f"The model has the weights of step {best:,}: later steps left nothing in it.")
    if answer["status"] != "FINISHED":
        console.print("The run is not finished: it may not have reached these steps.")


def display_step(answer: Answer) -> None:
    rows = answer["sequences"]
    console.print(f"step {answer['step']:,}: {len(rows):,} sequences, {answer['num_ranks']} ranks")
    lines = [
        (f"{row['row']:,}", str(row["rank"]), segment["doc_id"], *_format_segment(segment))
        for row in rows
        for segment in row["segments"]
    ]
    _print_table(("row", "rank", "document", "tokens", "characters"), lines, _has_text(rows))


def display_spikes(answer: Answer) -> None:
    rule, spikes, has_losses = answer["rule"], answer["spikes"], answer["has_sequence_losses"]
    above = f"more than {rule['deviations']:g} deviations above the median of {rule['median_points']} before"
    first, last, total = answer["first_step"], answer["last_step"], answer["total_steps"]
    points = f"{answer['num_points']:,} losses of steps {first:,} to {last:,}"
    shown = f"; the {len(spikes)} highest" if len(spikes) < answer["num_spikes"] else ""
    console.print(f"{answer['num_spikes']:,} spikes ({above}) among {points}{shown}")
    for spike in spikes:
        loss = "no finite number" if spike["loss"] is None else f"{spike['loss']:.4f}"
        console.print(f"step {spike['step']:,}: loss {loss}, {_format_rule(spike)}", markup=False)
        headers = ("sequence", "rank", *(("loss", "share") if has_losses else ()))
        lines = [
            (*_format_sequence(row, has_losses), segment["doc_id"], *_format_segment(segment))
            for row in spike["sequences"]
            for segment in row["segments"]
        ]
        _print_table((*headers, "document", "tokens", "characters"), lines, _has_text(spike["sequences"]))
    if has_losses and spikes:
        console.print("loss: mean over the targets of the sequence. share: of the rise of the step's loss")
    if has_losses and (first > 1 or last < total):
        console.print(
            f"Steps {first:,} to {last:,} of {total:,} were recorded: a spike of another step is not listed."
        )
    if not has_losses:
        console.print(WITHOUT_LOSSES)
    if not has_losses and answer["num_ranks"] is None:
        console.print(WITHOUT_RANKS)


def _format_rule(spike: Answer) -> str:
    if spike["median"] is None:
        return "too few losses before for a median"
    height = "" if spike["excess"] is None else f", {spike['excess']:.1f} deviations above the median"
    return f"median {spike['median']:.4f}, threshold {spike['threshold']:.4f}{height}"


def _format_sequence(row: Answer, has_losses: bool) -> tuple[str, ...]:
    known = (str(row["sequence_id"]), "" if row["rank"] is None else str(row["rank"]))
    if not has_losses:
        return known
    loss, share = row["loss_sum"], row["excess_fraction"]
    mean = "not finite" if loss is None else f"{loss / max(1, row['num_targets']):.4f}"
    return (*known, mean, "" if share is None else f"{share:.0%}")


def _display_document(answer: Answer) -> None:
    rows, split = answer["sequences"], answer["split"]
    console.print(f"document {answer['document']}: split {split}, {len(rows):,} sequences")
    lines = [(f"{row['row']:,}", *_format_segment(segment)) for row in rows for segment in row["segments"]]
    _print_table(("row", "tokens", "characters"), lines, _has_text(rows))
    if split != "train":
        console.print(f"No step saw it: {split} is held out.")
        return
    seen = [
        (f"{visit['step']:,}", str(visit["epoch"]), str(visit["rank"]), f"{row['row']:,}")
        for row in rows
        for visit in row["seen"]
    ]
    _print_table(("step", "epoch", "rank", "row"), seen, False)


def _has_text(rows: list[Answer]) -> bool:
    return any("text" in segment for row in rows for segment in row["segments"])


def _format_segment(segment: Answer) -> tuple[str, ...]:
    """Tokens and characters, the second number not included, and the beginning of the text if it was read."""
    first, num_tokens = segment["first_token"], segment["num_tokens"]
    tokens = f"{first:,} to {first + num_tokens:,}"
    characters = f"{segment['char_start']:,} to {segment['char_end']:,}"
    text = segment.get("text")
    if text is None:
        return tokens, characters
    # Control characters of a document must not reach the terminal.
    shown = "".join(each if each.isprintable() else " " for each in text[:MAX_TEXT])
    return tokens, characters, shown + ("..." if len(text) > MAX_TEXT else "")


def _print_table(headers: tuple[str, ...], lines: Sequence[tuple[str, ...]], with_text: bool) -> None:
    table = Table()
    for header in (*headers, *(["text"] if with_text else [])):
        table.add_column(header, no_wrap=header == "document")  # an id is copied as a whole
    for line in lines[:MAX_ROWS]:
        table.add_row(*(Text(cell) for cell in line))
    console.print(table)
    if len(lines) > MAX_ROWS:
        console.print(f"... and {len(lines) - MAX_ROWS:,} more lines; --json has all")
