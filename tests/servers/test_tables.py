"""Spark, delta-rs and Arrow on one table in a real S3 server and a real HDFS."""

from dataclasses import replace

import pytest
from deltalake.exceptions import CommitFailedError

from pipelines.catalog import find_folder
from pipelines.commit import set_properties
from pipelines.corpus.build import open_corpus
from pipelines.corpus.manifest import list_sources
from pipelines.corpus.rules import Rules
from pipelines.corpus.source import Source
from pipelines.delta import ContractError, Table
from pipelines.hadoop_check import check_hadoop_on_executors
from pipelines.pin import open_log, pin
from pipelines.spark import session
from pipelines.storage import Folder
from pipelines.stores import S3, Stores, configure
from pipelines.stores_check import check_hadoop
from tests.conftest import TEST_CONF
from tests.servers.jars import require_jars
from tests.servers.s3 import BUCKET

pytestmark = pytest.mark.slow

WORDS = Table(name="words", row="one word", key=("word",), ddl="word STRING NOT NULL, length INT NOT NULL")


@pytest.fixture
def reaching(spark, configured):
    """The session of all tests, with the settings of this test's stores."""
    require_jars("s3")
    return session("servers", TEST_CONF)


def test_a_table_has_the_digest_of_a_local_one(reaching, root, tmp_path):
    rows = reaching.createDataFrame([("river", 5), ("delta", 5), ("sea", 3)], "word STRING, length INT")
    far, near = (
        WORDS.overwrite(rows, path, fingerprint="one", facts={})
        for path in (f"{root}/t", str(tmp_path / "t"))
    )
    assert (far.digest, far.num_rows) == (near.digest, 3)
    assert pin(f"{root}/t") == far
    assert open_log(f"{root}/t").source.columns == ("word", "length")
    assert WORDS.overwrite(rows, f"{root}/t", fingerprint="one", facts={}).version == far.version
    assert WORDS.digest(WORDS.read(reaching, f"{root}/t")) == (near.digest, 3)


@pytest.fixture
def schema(reaching, tmp_path):
    """A schema (database) of Spark's catalog on S3, and its location."""
    location = f"s3a://{BUCKET}/{tmp_path.name}"
    # Spark's catalog keeps the settings of the session's start, without keys; it takes a client that exists.
    context = reaching.sparkContext
    path = context._jvm.org.apache.hadoop.fs.Path(location)
    path.getFileSystem(context._jsc.hadoopConfiguration())
    reaching.sql(f"CREATE DATABASE far LOCATION '{location}'")
    yield "far", location
    reaching.sql("DROP DATABASE far CASCADE")


def test_a_named_table_on_s3_is_committed_on_a_condition(reaching, schema):
    name, path = f"{schema[0]}.words", f"{schema[1]}/words"
    rows = [
        reaching.createDataFrame(words, "word STRING, length INT")
        for words in ([("sea", 3)], [("river", 5)], [("lake", 4), ("river", 5)])
    ]
    words = replace(WORDS, checks={"not_empty": "length > 0"})
    first = words.overwrite(rows[0], name, fingerprint="one", facts={})
    second = words.overwrite(rows[1], name, fingerprint="two", facts={})
    third = words.append(rows[2], name, fingerprint="three", facts={})
    assert (first.path, first.num_rows, second.num_rows, third.num_rows) == (name, 1, 1, 1)
    assert (pin(name), pin(path).identity()) == (third, third.identity())
    assert words.append(rows[2], path, fingerprint="three", facts={}).version == third.version
    assert sorted(row.word for row in reaching.table(name).collect()) == ["lake", "river"]
    history = reaching.sql(f"DESCRIBE HISTORY {name}").select("version", "engineInfo").collect()
    made = {row.version: str(row.engineInfo).partition("-")[0].partition(":")[0] for row in history}
    assert made[0].startswith("Apache"), made  # the catalog's part: Spark created the table
    assert {made[each.version] for each in (first, second, third)} == {"delta"}, made
    with pytest.raises(ContractError, match=r"1 of 1 rows break the constraint not_empty"):
        words.append(rows[0].selectExpr("word", "0 AS length"), name, fingerprint="four", facts={})
    assert Folder(schema[1]).names() == ["words"]  # no lease is left


@pytest.mark.parametrize(
    ("clauses", "feature"),
    [
        ("TBLPROPERTIES ('delta.enableRowTracking' = 'true')", "domainMetadata, rowTracking"),
        ("TBLPROPERTIES ('delta.enableInCommitTimestamps' = 'true')", "inCommitTimestamp"),
        ("CLUSTER BY (word)", "clustering, domainMetadata"),
    ],
)
def test_a_named_table_with_features_of_spark_alone_is_refused(reaching, schema, clauses, feature):
    name, columns = f"{schema[0]}.words", "word STRING NOT NULL, length INT NOT NULL"
    reaching.sql(f"CREATE TABLE {name} ({columns}) USING delta {clauses}")
    rows = reaching.range(1).selectExpr("raise_error('computed') :: STRING AS word", "3 AS length")
    for write in (WORDS.overwrite, WORDS.append):
        with pytest.raises(ValueError, match=rf"table {name} .* do not know: {feature}; .* DROP FEATURE"):
            write(rows, name, fingerprint="one", facts={})  # before a row is computed
    with pytest.raises(CommitFailedError, match="Unsupported table features"):  # no other writer
        set_properties(open_log(name), {"delta.constraints.not_empty": "length > 0"})


@pytest.mark.parametrize("key", ["spark.delta.logStore.s3a.impl", "delta.logStore.class"])
def test_a_log_store_that_the_user_chose_commits(reaching, schema, key):
    name, store = f"{schema[0]}.words", "io.delta.storage.S3DynamoDBLogStore"
    java_conf = reaching.sparkContext._jsc.sc().conf()
    java_conf.set(key, store)
    try:
        assert find_folder(name) is None
    finally:
        java_conf.remove(key)
    reaching.conf.set(key, store)  # Delta does not see it, and keeps its log store for one driver
    try:
        assert find_folder(name) == f"{schema[1]}/words"
    finally:
        reaching.conf.unset(key)


def test_a_schema_is_that_of_spark_s_catalog_whichever_is_current(reaching, schema):
    other = "spark.sql.catalog.elsewhere"
    jdbc = "org.apache.spark.sql.execution.datasources.v2.jdbc.JDBCTableCatalog"
    settings = {other: jdbc, f"{other}.url": "jdbc:derby:memory:elsewhere;create=true"}
    for key, value in settings.items():
        reaching.conf.set(key, value)
    try:
        reaching.catalog.setCurrentCatalog("elsewhere")
        assert reaching.catalog.currentCatalog() == "elsewhere"
        assert find_folder(f"{schema[0]}.words") is None  # a name of the other catalog
        assert find_folder(f"spark_catalog.{schema[0]}.words") == f"{schema[1]}/words"
        assert find_folder(f"Spark_Catalog.{schema[0]}.words") == f"{schema[1]}/words"
    finally:
        reaching.catalog.setCurrentCatalog("spark_catalog")
        for key in settings:
            reaching.conf.unset(key)


def test_a_source_is_read_by_executors(reaching, root):
    lines = [f'{{"text": "line {number}"}}\n' for number in range(100)]
    for name in ("a", "b"):
        Folder(root).write(f"raw/{name}.jsonl", "".join(lines).encode())
    source = Source(
        name="raw", path=f"{root}/raw", format="jsonl", fields={"text": "text"}, splits={"train": 1.0}
    )
    with open_corpus(reaching, [source], list_sources([source]), Rules()) as corpus:
        assert (corpus.facts["records"], corpus.facts["quarantined"]) == (200, 0)
        with corpus.hold_documents(f"{root}/documents") as documents:
            rows = documents.rows.select("file", "text").collect()
    assert len(rows) == 200
    assert sorted({row.file for row in rows}) == ["a.jsonl", "b.jsonl"]


def test_spark_s_client_does_what_stages_need(reaching, root):
    assert [(finding.step, finding.problem) for finding in check_hadoop(reaching, root)] == [("", "")]
    by_tasks = check_hadoop_on_executors(reaching.sparkContext, root, num_tasks=2, hold_seconds=0.0)
    assert {name: (each.step, each.problem) for name, each in by_tasks.items()} == {"driver": ("", "")}
    assert Folder(root).names() == []


def test_the_keys_are_on_no_command_line_and_in_no_setting(reaching):
    from pathlib import Path

    shown = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert any(b"org.apache.spark.deploy.SparkSubmit" in line for line in shown)
    assert not any(b"a-key-of-tests" in line for line in shown)
    assert "a-key-of-tests" not in str(reaching.sparkContext.getConf().getAll())
    assert "a-key-of-tests" not in str(reaching.sql("SET -v").collect())


def test_a_session_that_reaches_another_store_is_refused(reaching, monkeypatch):
    java_conf = reaching.sparkContext._jsc.sc().conf()
    java_conf.set("spark.hadoop.fs.s3a.endpoint", "http://elsewhere:1")
    try:
        configure(Stores(s3=S3(endpoint="http://here:1", region="eu-west-1")))
        with pytest.raises(
            ValueError, match=r"fs.s3a.endpoint is http://elsewhere:1, but .* says http://here:1"
        ):
            session("servers", TEST_CONF)
    finally:
        java_conf.remove("spark.hadoop.fs.s3a.endpoint")
