"""Stage 2: documents to sequences of tokens for training.

Reads the documents that are kept. Writes sequences, whose tokens lead back to documents, and the tokenizer.
If documents were added, removed or changed, only their groups are built again."""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator

from jobs.shell.command import run_command
from jobs.shell.facts import display_sequences, forecast_sequences
from jobs.shell.plan import Outcome, Plan, plan_tables, require_table
from jobs.shell.sequences_report import ReportedSection, add_report
from jobs.shell.settings import Fraction, TablePlace
from jobs.shell.stage import Check, Work, check_nothing, run_stage
from pipelines.dataset.examples.table import require_task
from pipelines.dataset.packing.rules import PackingRules
from pipelines.dataset.tokenizer_choice import TokenizerChoice

if TYPE_CHECKING:
    from pipelines.dataset.earlier import Inputs
    from pipelines.pin import Pin

REVISION = 5  # raise it when equal documents give other sequences than before


class Config(ReportedSection):
    documents: TablePlace
    task: Annotated[str, AfterValidator(require_task)]
    tokenizer: TokenizerChoice
    packing: PackingRules
    max_left_out_fraction: Fraction


def plan(config: Config) -> "Plan[Inputs]":
    from pipelines.dataset.earlier import Inputs
    from pipelines.dataset.left_out_limit import require_few_committed
    from pipelines.dataset.settings import describe_settings
    from pipelines.dataset.tokenizer import find_missing_tokenizer
    from pipelines.pin import fingerprint

    documents = require_table(config.documents, "documents", "corpus")
    settings = describe_settings(config.task, config.tokenizer, config.packing)
    made_from = fingerprint("dataset", REVISION, settings, documents.identity())
    inputs = Inputs(documents, fingerprint("dataset", REVISION, settings))

    def find_gap(sequences: "Pin") -> str:
        require_few_committed(sequences, config.max_left_out_fraction)  # the limit is in no fingerprint
        return find_missing_tokenizer(config.tokenizers, sequences)

    planned = plan_tables(made_from, [config.sequences], display_sequences, inputs=inputs, find_gap=find_gap)
    return replace(planned, forecast=partial(forecast_sequences, inputs, config))


def main(config: Config, check: Check = check_nothing) -> Outcome:
    return add_report(config, lambda: run_stage("dataset", config, plan, write_tables, check))


def write_tables(config: Config, work: "Work[Inputs]") -> dict[str, str]:
    from pipelines.dataset.write import SequenceBuild, write_sequences

    build = SequenceBuild(
        task=config.task,
        tokenizer=config.tokenizer,
        packing=config.packing,
        sequences=config.sequences,
        tokenizers=config.tokenizers,
        fingerprint=work.fingerprint,
        report=config.report,
        max_left_out_fraction=config.max_left_out_fraction,
    )
    pin, groups = write_sequences(work.spark, work.inputs, build, phase=work.progress.phase)
    return {**display_sequences(pin), "groups built": groups}


if __name__ == "__main__":
    run_command("dataset", Config, main, plan)
