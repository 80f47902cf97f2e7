"""Delta tables with a change feed, and sources that land them; no server."""

from pathlib import Path

from jobs import corpus
from jobs.shell.settings import load
from pipelines.corpus.feed.land import land_tables
from pipelines.corpus.feed.rounds import ChangeFeed
from pipelines.corpus.listing import list_files
from pipelines.corpus.source import Source
from tests.corpus.increments import SPARK
from tests.corpus.reading import read_bytes

FIELDS = {"text": "text", "key": "id"}
FEED = {"delta.enableChangeDataFeed": "true"}


def insert(spark, path, *rows: tuple, ddl="id INT, text STRING", partition_by=(), **properties) -> None:
    """One version of the table at `path`; the first one creates it, with the properties."""
    writer = spark.createDataFrame([*rows], ddl).coalesce(1).write.format("delta").mode("append")
    writer.options(**FEED, **properties).partitionBy(*partition_by).save(str(path))


def sql(spark, table, text: str) -> None:
    """Run a statement on the table at a path, which it calls {table}."""
    spark.sql(text.format(table=f"delta.`{table}`"))


def make_source(folder: Path, fields=None, path="landed", metadata=None, **options) -> Source:
    return Source(
        name="s",
        path=f"{folder}/{path}",
        format="delta_changes",
        fields=fields or FIELDS,
        metadata=metadata or {},
        options={"table": f"{folder}/table", **options},
    )


def refuse_spark():
    raise AssertionError("nothing to land needs no Spark")


def land_now(source, start_spark=refuse_spark, changed_files="rebuild", lost_versions="stop") -> list[str]:
    """What people are told, without source and table."""
    notes: list[str] = []
    settings = ChangeFeed(lost_versions=lost_versions)
    land_tables([source], settings, changed_files, start_spark, notes.append)
    return [note.split(": ", 2)[2] for note in notes]


def read_landed(source: Source) -> list[dict]:
    """Text, key and metadata of the landed records, by key and text."""
    found = []
    for file in list_files(source):
        for record in read_bytes(Path(file.path).read_bytes(), source, path=file.path):
            assert record.columns is not None, record.reason
            columns = record.columns
            found.append({"key": columns.key, "text": columns.text, **(columns.metadata or {})})
    return sorted(found, key=lambda each: (each["key"] or "", each["text"]))


def list_texts(source: Source) -> list[str]:
    return [each["text"] for each in read_landed(source)]


def make_config(folder: Path, lake: str, *overrides: str, path="landed", options=""):
    """The stage on the table folder/table, with its own tables in folder/LAKE."""
    source = (
        f"{{name: s, path: {folder}/{path}, format: delta_changes, fields: {{text: text, key: id}}, "
        f"options: {{table: {folder}/table{options}}}}}"
    )
    given = [f"root={folder}/{lake}", f"corpus.sources=[{source}]", "corpus.max_quarantined_fraction=1"]
    return load(overrides=[*given, SPARK, *overrides]).section("corpus", corpus.Config)
