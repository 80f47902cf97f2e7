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
from jobs.shell.settings import Section, TablePlace
from jobs.shell.stage import Check, Work, check_nothing, run_stage
from pipelines.corpus.rules import Rules
from pipelines.corpus.source import Source, require_sources

if TYPE_CHECKING:
    from pipelines.corpus.readers.format import SourceFile

REVISION = 3  # raise it when equal files give other rows than before

Fraction = Annotated[float, Field(ge=0, le=1)]


class Config(Section):
    sources: list[Source]
    rules: Rules
    max_quarantined_fraction: Fraction
    max_damaged_fraction: Fraction
    documents: TablePlace
    quarantine: TablePlace


def plan(config: Config) -> "Plan[list[list[SourceFile]]]":
    from pipelines.corpus.listing import list_files
    from pipelines.pin import fingerprint

    listed = [list_files(source) for source in require_sources(config.sources)]
    files = [[(file.relative, file.size, file.modified_ns) for file in each] for each in listed]
    settings = config.model_dump(mode="json", include={"sources", "rules"})
    parts = [[*source.parts] for source in config.sources]  # a fingerprint ignores the order of keys
    made_from = fingerprint("corpus", REVISION, settings, parts, files)
    return plan_tables(made_from, [config.quarantine, config.documents], display_documents, inputs=listed)


def main(config: Config, check: Check = check_nothing) -> Outcome:
    return run_stage("corpus", config, plan, write_documents, check)


def write_documents(config: Config, work: "Work[list[list[SourceFile]]]") -> dict[str, str]:
    from pipelines.corpus.build import build_documents, reconcile
    from pipelines.corpus.quarantine import require_few_quarantined
    from pipelines.corpus.readers.files import read_sources
    from pipelines.spark import persisted
    from pipelines.tables import DOCUMENTS, QUARANTINE

    work.progress.phase(f"reading {', '.join(source.name for source in config.sources)}")
    with ExitStack() as stack:
        records = stack.enter_context(persisted(read_sources(work.spark, config.sources, work.inputs)))
        work.progress.phase("looking for duplicates and broken records")
        built, broken = build_documents(records, config.sources, config.rules)
        documents = stack.enter_context(DOCUMENTS.hold(built, config.documents))
        quarantine = stack.enter_context(QUARANTINE.hold(broken, config.quarantine))
        made_from, facts = work.fingerprint, reconcile(records, documents.rows, quarantine.rows)
        work.progress.phase("writing quarantine")
        QUARANTINE.overwrite(quarantine, config.quarantine, fingerprint=made_from, facts=facts)
        num_files = {each.name: len(files) for each, files in zip(config.sources, work.inputs, strict=True)}
        limits = config.model_dump(include={"max_quarantined_fraction", "max_damaged_fraction"})
        require_few_quarantined(facts, quarantine.rows, num_files=num_files, **limits)
        work.progress.phase("writing documents")
        pin = DOCUMENTS.overwrite(documents, config.documents, fingerprint=made_from, facts=facts)
    return display_documents(pin)


if __name__ == "__main__":
    run_command("corpus", Config, main, plan)
