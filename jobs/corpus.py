"""Stage 1: raw files to the tables documents and quarantine.

Reads the files of corpus.sources, which a recipe or your own file names. Writes one row per record: to
documents (a record that a rule drops keeps its row, with the reason), or to quarantine if the record cannot
be read.
"""

from contextlib import ExitStack
from functools import reduce
from typing import Annotated

from pydantic import Field

from jobs.shell.command import run_command
from jobs.shell.facts import display_documents
from jobs.shell.plan import Outcome, Plan, plan_tables
from jobs.shell.settings import AbsolutePath, Section
from jobs.shell.stage import Work, run_stage
from pipelines.corpus.rules import Rules
from pipelines.corpus.source import Source

REVISION = 3  # raise it when equal files give other rows than before


class Config(Section):
    sources: list[Source]
    rules: Rules
    max_quarantined_fraction: Annotated[float, Field(ge=0, le=1)]
    documents: AbsolutePath
    quarantine: AbsolutePath


def plan(config: Config) -> Plan[None]:
    from pipelines.corpus.listing import list_files
    from pipelines.pin import fingerprint

    if not config.sources:
        raise ValueError(
            "corpus.sources is empty: name the files to read (conf/base.yaml shows how) or choose a --recipe"
        )
    listed = [list_files(source) for source in config.sources]
    files = [[(file.relative, file.size, file.modified_ns) for file in each] for each in listed]
    settings = config.model_dump(mode="json", include={"sources", "rules"})
    made_from = fingerprint("corpus", REVISION, settings, files)
    return plan_tables(made_from, [config.quarantine, config.documents], display_documents)


def main(config: Config) -> Outcome:
    return run_stage("corpus", config, plan, write_documents)


def write_documents(config: Config, work: Work[None]) -> dict[str, str]:
    from pipelines.corpus.build import build_documents, reconcile
    from pipelines.corpus.quarantine import require_few_quarantined
    from pipelines.corpus.readers.files import read_source
    from pipelines.spark import persisted
    from pipelines.tables import DOCUMENTS, QUARANTINE

    work.progress.phase(f"reading {', '.join(source.name for source in config.sources)}")
    read = reduce(lambda a, b: a.unionByName(b), [read_source(work.spark, each) for each in config.sources])
    with ExitStack() as stack:
        records = stack.enter_context(persisted(read))
        work.progress.phase("looking for duplicates and broken records")
        built, broken = build_documents(records, config.sources, config.rules)
        documents = stack.enter_context(DOCUMENTS.hold(built))
        quarantine = stack.enter_context(QUARANTINE.hold(broken))
        made_from, facts = work.fingerprint, reconcile(records, documents.rows, quarantine.rows)
        work.progress.phase("writing quarantine")
        QUARANTINE.overwrite(quarantine, config.quarantine, fingerprint=made_from, facts=facts)
        require_few_quarantined(facts, quarantine.rows, config.max_quarantined_fraction)
        work.progress.phase("writing documents")
        pin = DOCUMENTS.overwrite(documents, config.documents, fingerprint=made_from, facts=facts)
    return display_documents(pin)


if __name__ == "__main__":
    run_command("corpus", Config, main, plan)
