"""Stage 1: raw files to documents, signals and quarantine.
Reads the files of corpus.sources, from a recipe or your own file. Writes one row per record: to documents
(what a rule drops keeps its row, with the reason), or to quarantine. Signals are what presets measure."""

from contextlib import ExitStack
from typing import TYPE_CHECKING

from jobs.shell.command import run_command
from jobs.shell.facts import display_documents
from jobs.shell.near_duplicates import SearchSection, write_measured
from jobs.shell.plan import Outcome, Plan, plan_tables
from jobs.shell.progress import follow_tasks
from jobs.shell.report import add_report
from jobs.shell.settings import Fraction, TablePlace
from jobs.shell.stage import Check, Work, check_nothing, run_stage
from pipelines.corpus.rules import leave_out_unset
from pipelines.corpus.source import Source, require_sources

if TYPE_CHECKING:
    from pipelines.corpus.manifest import Manifest

REVISION = 4  # raise it when equal files give other rows than before


class Config(SearchSection):
    sources: list[Source]
    max_quarantined_fraction: Fraction
    max_damaged_fraction: Fraction
    documents: TablePlace
    quarantine: TablePlace


def plan(config: Config) -> "Plan[Manifest]":
    from pipelines.corpus.manifest import list_sources
    from pipelines.pin import fingerprint

    manifest = config.add_screens(list_sources(require_sources(config.sources)))
    settings = leave_out_unset(config.model_dump(mode="json", include={"sources", "rules"}))
    settings |= config.name_search()
    parts = [[*source.parts] for source in config.sources]  # a fingerprint ignores the order of keys
    made_from = fingerprint("corpus", REVISION, settings, parts, manifest.digest)
    outputs = [config.quarantine, *config.measured, *config.evidence, config.documents]
    return plan_tables(made_from, outputs, display_documents, inputs=manifest)


def main(config: Config, check: Check = check_nothing) -> Outcome:
    return add_report(config, run_stage("corpus", config, plan, write_documents, check))


def write_documents(config: Config, work: "Work[Manifest]") -> dict[str, str]:
    from pipelines.corpus.build import open_corpus
    from pipelines.corpus.neardup.find import prepare_search, write_evidence
    from pipelines.corpus.quarantine import require_few_quarantined
    from pipelines.tables import DOCUMENTS, QUARANTINE

    text, made_from = f"reading {', '.join(source.name for source in config.sources)}", work.fingerprint
    with ExitStack() as stack:
        with follow_tasks(work.progress, work.spark, text, work.inputs.num_bytes // 10**6, "MB"):
            search = prepare_search(config, work.progress.phase)
            found = open_corpus(work.spark, config.sources, work.inputs, config.rules, search)
            facts = config.note_report((corpus := stack.enter_context(found)).facts)
        work.progress.phase("writing quarantine")
        with QUARANTINE.hold(corpus.quarantine(), config.quarantine) as quarantine:
            QUARANTINE.overwrite(quarantine, config.quarantine, fingerprint=made_from, facts=facts)
            limits = config.model_dump(include={"max_quarantined_fraction", "max_damaged_fraction"})
            require_few_quarantined(facts, quarantine.rows, num_files=work.inputs.num_files, **limits)
        if config.measured or config.decontamination.enabled:
            work.progress.phase("writing what was measured")
            write_measured(config, corpus, made_from, facts)
        write_evidence(corpus.near_duplicates, search, made_from)
        with follow_tasks(work.progress, work.spark, "writing documents", facts["documents"], "documents"):
            documents = stack.enter_context(corpus.hold_documents(config.documents))
            pin = DOCUMENTS.overwrite(documents, config.documents, fingerprint=made_from, facts=facts)
    return display_documents(pin)


if __name__ == "__main__":
    run_command("corpus", Config, main, plan)
