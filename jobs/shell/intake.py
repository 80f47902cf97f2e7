"""The keys of stage 1 that concern its files, and the plan that compares the files with the ledger."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from jobs.shell.facts import display_documents
from jobs.shell.near_duplicates import SearchSection
from jobs.shell.plan import Plan, plan_tables, require_own_rows
from jobs.shell.settings import AbsolutePath, TablePlace
from jobs.shell.stage import Check, Work
from pipelines.corpus.feed.rounds import ChangeFeed
from pipelines.corpus.kafka.cluster import Kafka
from pipelines.corpus.rules import leave_out_unset
from pipelines.corpus.source import ChangedFiles, Source, require_sources

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from pipelines.corpus.intake import Intake


class IntakeSection(SearchSection):
    """A section with sources and the tables that are made from them."""

    sources: list[Source]
    kafka: Kafka
    change_feed: ChangeFeed
    changed_files: ChangedFiles
    stream_interval_seconds: Annotated[float, Field(ge=0)]
    documents: TablePlace
    quarantine: TablePlace
    ledger: AbsolutePath


def plan_files(config: IntakeSection, revision: int, outputs: Sequence[str]) -> "Plan[Intake]":
    """The plan of the stage: files are listed and compared with those of the documents that are there.

    Raises ValueError if files changed or disappeared and `config.changed_files` forbids what this takes.
    """
    from pipelines.corpus.intake import plan_intake
    from pipelines.corpus.listing import list_files
    from pipelines.corpus.manifest import list_sources
    from pipelines.pin import fingerprint, pin

    settings = leave_out_unset(config.model_dump(mode="json", include={"sources", "rules"}))
    settings |= config.name_search()
    parts = [[*source.parts] for source in config.sources]  # a fingerprint ignores the order of keys

    def identify(files: str) -> str:
        return fingerprint("corpus", revision, settings, parts, files)

    keeps = config.changed_files == "keep"
    manifest = config.add_screens(list_sources(require_sources(config.sources), may_be_empty=keeps))
    intake = plan_intake(manifest, config.sources, config, identify)
    for source in config.sources:
        if not intake.whole.num_files[source.name]:
            list_files(source)  # raises: neither the folder nor the ledger has a file of it
    planned = plan_tables(intake.fingerprint, outputs, display_documents, inputs=intake)
    if not planned.up_to_date:
        require_own_rows(config.ledger, pin(config.ledger))
    return replace(planned, why=intake.why) if intake.why and not planned.up_to_date else planned


def land_sources(config: IntakeSection, work: Work[Any], check: Check) -> None:
    """Bring new records of Kafka and new rows of change feeds to the folders of their sources, so that the
    plan finds them."""
    formats = {source.format for source in config.sources}

    def start_spark() -> "SparkSession":
        check(work)
        return work.spark

    if "kafka" in formats:
        from pipelines.corpus.kafka.land import land_topics

        work.progress.phase("looking for records in Kafka")
        land_topics(config.sources, config.kafka, start_spark, work.progress.print)
    if "delta_changes" in formats:
        from pipelines.corpus.feed.land import land_tables

        work.progress.phase("looking for new versions of tables")
        land_tables(
            config.sources, config.change_feed, config.changed_files, start_spark, work.progress.print
        )
