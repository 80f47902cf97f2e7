"""Stage 2: turn the documents table into the sequences table: tokens, packed into rows for training.

Reads the documents that are kept. Writes sequences, whose tokens lead back to documents, and the tokenizer.
"""

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Literal

from jobs.shell.command import run_command
from jobs.shell.facts import display_sequences
from jobs.shell.plan import Outcome, Plan, plan_tables, require_table
from jobs.shell.settings import AbsolutePath, Section
from jobs.shell.stage import Work, run_stage
from pipelines.dataset.build import PackingRules
from pipelines.dataset.tokenizer import TokenizerChoice

if TYPE_CHECKING:
    from pipelines.pin import Pin

REVISION = 2
"""Raise it when equal documents give other sequences than before."""


class Config(Section):
    documents: AbsolutePath
    sequences: AbsolutePath
    tokenizers: AbsolutePath
    task: Literal["classification", "language_modelling"]
    tokenizer: TokenizerChoice
    packing: PackingRules


def plan(config: Config) -> "Plan[Pin]":
    from pipelines.dataset.tokenizer import tokenizer_identity
    from pipelines.pin import fingerprint

    documents = require_table(config.documents, "documents", "corpus")
    settings = config.model_dump(mode="json", include={"task", "tokenizer", "packing"})
    identity = tokenizer_identity(config.tokenizer)
    made_from = fingerprint("dataset", REVISION, settings, documents.identity(), identity)
    return plan_tables(made_from, [config.sequences], display_sequences, inputs=documents)


def main(config: Config) -> Outcome:
    return run_stage("dataset", config, plan, write_sequences)


def write_sequences(config: Config, work: "Work[Pin]") -> dict[str, str]:
    from pipelines.dataset import build
    from pipelines.dataset.tokenizer import write_tokenizer
    from pipelines.tables import DOCUMENTS, SEQUENCES

    pinned = work.inputs
    documents = DOCUMENTS.read(work.spark, pinned.path, pinned.version)
    if not pinned.digest:  # somebody changed the rows, which is their right: learn what they left
        digest, num_rows = DOCUMENTS.digest(documents)
        pinned = replace(pinned, digest=digest, num_rows=num_rows)
    work.progress.phase("reading the tokenizer" if config.tokenizer.base else "training the tokenizer")
    tokenizer = build.choose_tokenizer(documents, config.tokenizer)
    labels = build.label_names(documents) if config.task == "classification" else ()
    work.progress.phase("packing documents into sequences")
    with build.built_sequences(documents, tokenizer, config.packing, labels=labels) as packed:
        facts = {
            "task": config.task,
            "labels": labels,
            "tokenizer": write_tokenizer(tokenizer, config.tokenizers),
            "splits": build.count_by_split(packed),
            "sequence_length": config.packing.sequence_length,
            "documents": {**asdict(pinned), "facts": {}},
        }
        work.progress.phase("writing sequences")
        rows = build.in_order(packed)
        pin = SEQUENCES.overwrite(rows, config.sequences, fingerprint=work.fingerprint, facts=facts)
    return display_sequences(pin)


if __name__ == "__main__":
    run_command("dataset", Config, main, plan)
