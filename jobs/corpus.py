"""Stage 1: raw files to the tables documents and quarantine.

Reads the files of corpus.sources, from a recipe or your own file. Writes one row per record: to documents (a
record that a rule drops keeps its row, with the reason), or to quarantine if it cannot be read.
"""

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from jobs.shell.command import run_command
from jobs.shell.facts import display_documents
from jobs.shell.plan import Outcome, Plan, plan_tables
from jobs.shell.progress import follow_tasks
from jobs.shell.settings import Section, TablePlace
from jobs.shell.stage import Check, Work, check_nothing, run_stage
from pipelines.corpus.rules import Rules
from pipelines.corpus.source import Source, require_sources

if TYPE_CHECKING:
    from pipelines.corpus.manifest import Manifest

REVISION = 4  # raise it when equal files give other rows than before

Fraction = Annotated[float, Field(ge=0, le=1)]


class Config(Section):
    sources: list[Source]
    rules: Rules
    max_quarantined_fraction: Fraction
    max_damaged_fraction: Fraction
    documents: TablePlace
    quarantine: TablePlace


def plan(config: Config) -> "Plan[Manifest]":
    from pipelines.corpus.manifest import list_sources
    from pipelines.pin import fingerprint

    manifest = list_sources(require_sources(config.sources))
    settings = config.model_dump(mode="json", include={"sources", "rules"})
    parts = [[*source.parts] for source in config.sources]  # a fingerprint ignores the order of keys
    made_from = fingerprint("corpus", REVISION, settings, parts, manifest.digest)
    return plan_tables(made_from, [config.quarantine, config.documents], display_documents, inputs=manifest)


def main(config: Config, check: Check = check_nothing) -> Outcome:
    return run_stage("corpus", config, plan, write_documents, check)


def write_documents(config: Config, work: "Work[Manifest]") -> dict[str, str]:
    from pipelines.corpus.build import open_corpus
    from pipelines.corpus.quarantine import require_few_quarantined
    from pipelines.tables import DOCUMENTS, QUARANTINE

    text = f"reading {', '.join(source.name for source in config.sources)}"
    with ExitStack() as stack:
        with follow_tasks(work.progress, work.spark, text, work.inputs.num_bytes // 10**6, "MB"):
            found = open_corpus(work.spark, config.sources, work.inputs, config.rules)
            corpus = stack.enter_context(found)
        made_from, facts = work.fingerprint, corpus.facts
        work.progress.phase("writing quarantine")
        with QUARANTINE.hold(corpus.quarantine(), config.quarantine) as quarantine:
            QUARANTINE.overwrite(quarantine, config.quarantine, fingerprint=made_from, facts=facts)
            limits = config.model_dump(include={"max_quarantined_fraction", "max_damaged_fraction"})
            require_few_quarantined(facts, quarantine.rows, num_files=work.inputs.num_files, **limits)
        with follow_tasks(work.progress, work.spark, "writing documents", facts["documents"], "documents"):
            documents = stack.enter_context(corpus.hold_documents(config.documents))
            pin = DOCUMENTS.overwrite(documents, config.documents, fingerprint=made_from, facts=facts)
    return display_documents(pin)


if __name__ == "__main__":
    run_command("corpus", Config, main, plan)
