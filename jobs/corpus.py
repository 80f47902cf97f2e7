"""Stage 1: raw files to the tables documents and quarantine. Every record becomes a row of one of the two."""

from contextlib import ExitStack
from functools import reduce

import typer

from jobs.shell.command import Outcome, Plan, command, working
from jobs.shell.plan import planned, unchanged
from jobs.shell.settings import Section
from pipelines.corpus.build import build_documents, reconcile
from pipelines.corpus.quality import Rules
from pipelines.corpus.readers.files import read_source
from pipelines.corpus.source import Source, list_files
from pipelines.pin import Pin, fingerprint
from pipelines.spark import persisted, session
from pipelines.storage import absolute
from pipelines.tables import DOCUMENTS, QUARANTINE

REVISION = 2
"""Raised when equal files give other rows than before."""


class Config(Section):
    sources: list[Source]
    rules: Rules
    documents: str
    quarantine: str


def plan(config: Config) -> Plan:
    if not config.sources:
        raise ValueError(
            "corpus.sources is empty: name the files to read (conf/base.yaml shows how) or choose a --recipe"
        )
    files = [
        [(file.relative, file.size, file.modified_ns) for file in list_files(source)]
        for source in config.sources
    ]
    made_from = fingerprint(
        "corpus", REVISION, config.model_dump(mode="json", include={"sources", "rules"}), files
    )
    return planned(made_from, [absolute(config.quarantine), absolute(config.documents)])


def main(config: Config) -> Outcome:
    planned = plan(config)
    if planned.up_to_date:
        return unchanged("corpus", planned, absolute(config.documents), told)
    with working("corpus") as work:
        work.say("starting Spark")
        spark = session("distributary corpus", config.spark)
        work.say(f"reading {', '.join(source.name for source in config.sources)}")
        with ExitStack() as held:
            read = reduce(
                lambda a, b: a.unionByName(b), [read_source(spark, each) for each in config.sources]
            )
            records = held.enter_context(persisted(read))
            work.say("sorting out duplicates and broken records")
            documents, quarantine = build_documents(records, config.sources, config.rules)
            kept = held.enter_context(DOCUMENTS.hold(documents))
            broken = held.enter_context(QUARANTINE.hold(quarantine))
            facts = reconcile(records, kept.rows, broken.rows)
            work.say("writing quarantine")
            QUARANTINE.overwrite(
                broken, absolute(config.quarantine), fingerprint=planned.fingerprint, facts=facts
            )
            work.say("writing documents")
            pin = DOCUMENTS.overwrite(
                kept, absolute(config.documents), fingerprint=planned.fingerprint, facts=facts
            )
    return Outcome(stage="corpus", ran=True, why=planned.why, facts=told(pin))


def told(pin: Pin) -> dict[str, str]:
    """The counts for a person."""
    facts = pin.facts
    kept, drops = (
        ", ".join(f"{name} {count:,}" for name, count in facts[part].items()) for part in ("kept", "dropped")
    )
    return {
        "rows in": f"{facts['records']:,}",
        "kept": kept,
        "dropped": drops or "0",
        "quarantined": f"{facts['quarantined']:,}",
    }


if __name__ == "__main__":
    typer.run(command("corpus", Config, main, plan))
