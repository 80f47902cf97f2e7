"""Stage 2: documents to sequences of tokens for training.

Reads the documents that are kept. Writes sequences, whose tokens lead back to documents, and the tokenizer.
"""

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator

from jobs.shell.command import run_command
from jobs.shell.facts import display_sequences
from jobs.shell.plan import Outcome, Plan, plan_tables, require_table
from jobs.shell.sequences_report import ReportedSection, add_report
from jobs.shell.settings import TablePlace
from jobs.shell.stage import Check, Work, check_nothing, run_stage
from pipelines.dataset.examples.table import load_builder, require_task
from pipelines.dataset.packing.rules import PackingRules
from pipelines.dataset.tokenizer_choice import TokenizerChoice

if TYPE_CHECKING:
    from pipelines.pin import Pin

REVISION = 4  # raise it when equal documents give other sequences than before


class Config(ReportedSection):
    documents: TablePlace
    task: Annotated[str, AfterValidator(require_task)]
    tokenizer: TokenizerChoice
    packing: PackingRules


def plan(config: Config) -> "Plan[Pin]":
    from pipelines.dataset.tokenizer import find_missing_tokenizer, identify_tokenizer
    from pipelines.pin import fingerprint

    documents = require_table(config.documents, "documents", "corpus")
    settings = config.model_dump(mode="json", include={"task", "packing"})
    settings |= identify_tokenizer(config.tokenizer, is_chat=load_builder(config.task).is_chat)
    made_from = fingerprint("dataset", REVISION, settings, documents.identity())
    gap = partial(find_missing_tokenizer, config.tokenizers)
    return plan_tables(made_from, [config.sequences], display_sequences, inputs=documents, find_gap=gap)


def main(config: Config, check: Check = check_nothing) -> Outcome:
    return add_report(config, lambda: run_stage("dataset", config, plan, write_sequences, check))


def write_sequences(config: Config, work: "Work[Pin]") -> dict[str, str]:
    from pipelines.dataset.build import build_sequences, count_splits
    from pipelines.dataset.documents import choose_tokenizer, read_documents, summarize_documents
    from pipelines.dataset.layout import lay_out_groups
    from pipelines.dataset.tokenizer import write_tokenizer
    from pipelines.tables import SEQUENCES

    documents, pinned = read_documents(work.spark, work.inputs)
    group_bytes = config.packing.group_bytes
    summary = summarize_documents(
        documents,
        max_bytes=config.tokenizer.max_bytes,
        group_bytes=group_bytes,
        with_labels=load_builder(config.task).has_labels,
    )
    work.progress.phase("reading the tokenizer" if config.tokenizer.base else "training the tokenizer")
    chosen = choose_tokenizer(documents, config.tokenizer, summary, task=config.task)
    work.progress.phase("packing documents into sequences")
    layout = lay_out_groups(summary.place_bytes, group_bytes)
    built = build_sequences(
        documents, chosen, config.packing, task=config.task, labels=summary.labels, layout=layout
    )
    with SEQUENCES.hold(built.rows, config.sequences) as held:
        facts = {
            "report": config.report,
            "task": config.task,
            "labels": summary.labels,
            "tokenizer": write_tokenizer(chosen.tokenizer, config.tokenizers),
            "splits": count_splits(held.rows),
            "end_token_id": built.end_token_id,
            "sequence_length": config.packing.sequence_length,
            "documents": {**asdict(pinned), "facts": {}},
        }
        work.progress.phase("writing sequences")
        pin = SEQUENCES.overwrite(held, config.sequences, fingerprint=work.fingerprint, facts=facts)
    return display_sequences(pin)


if __name__ == "__main__":
    run_command("dataset", Config, main, plan)
