"""Stage 1: raw files to documents, signals and quarantine.
Reads the files of corpus.sources, from a recipe or your own file. Writes one row per record: to documents
(what a rule drops keeps its row, with the reason), or to quarantine. Signals are what presets measure.
Files that came since the last run are added: only they are read; the tables are those of a full run."""

from contextlib import ExitStack
from typing import TYPE_CHECKING

from jobs.shell.command import run_command
from jobs.shell.corpus_report import add_report
from jobs.shell.facts import display_documents
from jobs.shell.intake import IntakeSection, land_sources, plan_files
from jobs.shell.near_duplicates import write_measured
from jobs.shell.plan import Outcome, Plan
from jobs.shell.progress import follow_tasks
from jobs.shell.settings import Fraction
from jobs.shell.stage import Check, Work, check_nothing, run_stage

if TYPE_CHECKING:
    from pipelines.corpus.intake import Intake

REVISION = 7  # raise it when equal files give other rows than before


class Config(IntakeSection):
    max_quarantined_fraction: Fraction
    max_damaged_fraction: Fraction


def plan(config: Config) -> "Plan[Intake]":
    outputs = [config.quarantine, *config.measured, *config.evidence, config.documents]
    return plan_files(config, REVISION, outputs)


def main(config: Config, check: Check = check_nothing) -> Outcome:
    return add_report(config, lambda: run_stage("corpus", config, plan, write_documents, check, land_sources))


def write_documents(config: Config, work: "Work[Intake]") -> dict[str, str]:
    from pipelines.corpus.intake import FullRunNeededError

    try:
        return write_tables(config, work, work.inputs)
    except FullRunNeededError as reason:
        work.progress.print(f"all files are read: {reason}")
        return write_tables(config, work, work.inputs.replan(reason))


def write_tables(config: Config, work: "Work[Intake]", intake: "Intake") -> dict[str, str]:
    from pipelines.corpus.neardup.find import prepare_search, write_evidence
    from pipelines.corpus.quarantine import require_few_quarantined
    from pipelines.corpus.write import open_intake, write_ledger
    from pipelines.tables import DOCUMENTS, QUARANTINE

    text, spark = f"reading {', '.join(source.name for source in config.sources)}", work.spark
    with ExitStack() as stack:
        with follow_tasks(work.progress, spark, text, intake.num_bytes // 10**6, "MB"):
            search = prepare_search(config, work.progress.phase)
            also = (search, config.contamination, config.paragraphs)
            found = open_intake(spark, config.sources, intake, config.rules, *also)
            facts = config.note_report((corpus := stack.enter_context(found)).facts)
        work.progress.phase("writing quarantine")
        intake.write(QUARANTINE, corpus.find_quarantine(config.quarantine), config.quarantine, facts)
        rows = QUARANTINE.read_newest(spark, config.quarantine)
        limits = config.model_dump(include={"max_quarantined_fraction", "max_damaged_fraction"})
        require_few_quarantined(facts, rows, num_files=intake.whole.num_files, **limits)
        if config.measured or config.evidence:
            work.progress.phase("writing what was measured")
            write_measured(config, corpus, intake, facts)
        write_evidence(corpus.near_duplicates, search, intake.fingerprint, facts["sources"])
        write_ledger(spark, intake, config.sources, config.ledger, facts)
        with follow_tasks(work.progress, spark, "writing documents", corpus.read["documents"], "documents"):
            documents = stack.enter_context(corpus.hold_documents(config.documents))
            pin = intake.write(DOCUMENTS, documents, config.documents, facts, corpus.replaced)
    return display_documents(pin)


if __name__ == "__main__":
    run_command("corpus", Config, main, plan)
