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
from jobs.shell.settings import AbsolutePath, Section, TablePlace
from jobs.shell.stage import Check, Work, check_nothing, run_stage
from pipelines.dataset.examples.table import load_builder, require_task
from pipelines.dataset.packing.rules import PackingRules
from pipelines.dataset.tokenizer_choice import TokenizerChoice

if TYPE_CHECKING:
    from pipelines.pin import Pin

REVISION = 3  # raise it when equal documents give other sequences than before


class Config(Section):
    documents: TablePlace
    sequences: TablePlace
    tokenizers: AbsolutePath
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
    return run_stage("dataset", config, plan, write_sequences, check)


def write_sequences(config: Config, work: "Work[Pin]") -> dict[str, str]:
    from pipelines.dataset.build import build_sequences
    from pipelines.dataset.documents import choose_tokenizer, read_documents, summarize_documents
    from pipelines.dataset.tokenizer_facts import keep_tokenizer
    from pipelines.tables import SEQUENCES

    documents, pinned = read_documents(work.spark, work.inputs)
    has_labels, max_bytes = load_builder(config.task).has_labels, config.tokenizer.max_bytes
    summary = summarize_documents(documents, max_bytes=max_bytes, with_labels=has_labels)
    work.progress.phase("reading the tokenizer" if config.tokenizer.base else "training the tokenizer")
    chosen = choose_tokenizer(documents, config.tokenizer, summary, task=config.task)
    work.progress.phase("packing documents into sequences")
    with build_sequences(documents, chosen, config.packing, task=config.task, summary=summary) as built:
        facts = {
            "task": config.task,
            "labels": summary.labels,
            **keep_tokenizer(chosen.tokenizer, config.tokenizers),
            **built.facts,
            "sequence_length": config.packing.sequence_length,
            "documents": {**asdict(pinned), "facts": {}},
        }
        work.progress.phase("writing sequences")
        pin = SEQUENCES.overwrite(built.rows, config.sequences, fingerprint=work.fingerprint, facts=facts)
    return display_sequences(pin)


if __name__ == "__main__":
    run_command("dataset", Config, main, plan)
