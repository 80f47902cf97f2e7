"""Which documents are scored again, and how they are dealt to tasks."""

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from pyspark.sql import functions as F

from pipelines.delta import ContractError
from pipelines.scoring import select
from pipelines.scoring.select import choose_documents, count_partitions, read_predictions
from pipelines.tables import PREDICTIONS
from tests.scoring.test_batch import as_documents

MODEL = SimpleNamespace(name="intents", version=3, run_id="r1")
TEXTS = ["my card was lost", "", "请给我退款", "how do I top up"]
ROWS = [(f"d{i:02}", TEXTS[i % 4], ("lost_card", "top_up", "退款", None)[i % 4]) for i in range(32)]


@pytest.fixture(scope="module")
def documents(spark):
    return as_documents(spark, ROWS).cache()


@pytest.fixture(scope="module")
def scored(documents):
    named = {"model_name": F.lit("intents"), "model_version": F.lit(3), "run_id": F.lit("r1")}
    return documents.withColumns(named).cache()


def choose(documents, predictions, model=MODEL, num_partitions=None):
    with choose_documents(documents, predictions, model, num_partitions=num_partitions) as chosen:
        return sorted(row.doc_id for row in chosen.rows.collect()), chosen.num_rows, chosen.num_before


def correct(documents):
    """d01 has another text, d03 a label where it had none."""
    text = F.when(F.col("doc_id") == "d01", "another text").otherwise(F.col("text"))
    label = F.when(F.col("doc_id") == "d03", "corrected").otherwise(F.col("label"))
    hashed = F.when(F.col("doc_id") == "d01", "0" * 32).otherwise(F.col("content_hash"))
    return documents.withColumns({"text": text, "label": label, "content_hash": hashed})


@pytest.mark.parametrize("max_broadcast_rows", [select.MAX_BROADCAST_ROWS, 0])
def test_only_new_or_changed_documents_are_chosen(documents, scored, monkeypatch, max_broadcast_rows):
    monkeypatch.setattr(select, "MAX_BROADCAST_ROWS", max_broadcast_rows)
    every_id = [row[0] for row in ROWS]
    assert choose(documents, None) == (every_id, 32, 0)
    assert choose(documents, scored) == ([], 0, 32)
    assert choose(correct(documents), scored) == (["d01", "d03"], 2, 32)
    for other in ({"version": 4}, {"run_id": "r2"}, {"name": "answers"}):
        model = SimpleNamespace(**{**vars(MODEL), **other})
        assert choose(documents, scored, model) == (every_id, 32, 0)


def as_predictions(documents):
    constants = {
        "prediction": F.lit("lost_card"),
        "score": F.lit(0.5),
        "num_bytes": F.lit(1).cast("bigint"),
        "problem": F.lit(None).cast("string"),
        "embedding": F.lit(None).cast("array<float>"),
        "labels": F.lit(None).cast("array<struct<label: string, probability: double>>"),
        "reciprocal_rank": F.lit(None).cast("double"),
        "model_name": F.lit("intents"),
        "model_version": F.lit(3),
        "run_id": F.lit("r1"),
        "documents_version": F.lit(1).cast("bigint"),
        "scored_at": F.lit(datetime(2026, 11, 21, tzinfo=UTC)),
        "latency_ms": F.lit(1.0),
    }
    return documents.withColumns(constants).select(*PREDICTIONS.schema.names)


def test_changed_documents_of_a_rebuilt_table_are_added(spark, documents, tmp_path):
    """Its versions start at 0 again, so other content has a version number that was scored before."""
    path = str(tmp_path / "predictions")
    PREDICTIONS.append(as_predictions(documents), path, fingerprint="a", facts={})
    rebuilt = correct(documents).where("doc_id < 'd03'")  # d01 has another text
    for fingerprint, expected in (("b", 1), ("c", 0)):
        earlier = PREDICTIONS.read(spark, path)
        with choose_documents(rebuilt, earlier, MODEL, num_partitions=2) as chosen:
            assert chosen.num_rows == expected
            scored = as_predictions(chosen.rows)
            assert PREDICTIONS.append(scored, path, fingerprint=fingerprint, facts={}).num_rows == expected
    again = PREDICTIONS.append(as_predictions(documents), path, fingerprint="another driver", facts={})
    assert again.num_rows == 0
    assert PREDICTIONS.read(spark, path).count() == 33


@pytest.mark.parametrize("max_broadcast_rows", [select.MAX_BROADCAST_ROWS, 0])
def test_texts_move_once_and_decide_nothing(
    spark, documents, scored, tmp_path, monkeypatch, max_broadcast_rows
):
    monkeypatch.setattr(select, "MAX_BROADCAST_ROWS", max_broadcast_rows)
    for name, rows in (("documents", correct(documents)), ("scored", scored)):
        rows.write.parquet(str(tmp_path / name))
    stored, earlier = (spark.read.parquet(str(tmp_path / name)) for name in ("documents", "scored"))
    with choose_documents(stored, earlier, MODEL, num_partitions=3) as chosen:
        plan = chosen.rows._jdf.queryExecution().optimizedPlan().toString()
        scans = [line for line in plan.splitlines() if "Relation [" in line]
        shuffles = [line for line in plan.splitlines() if "RepartitionByExpression" in line]
        assert len(chosen.rows.collect()) == 2
        assert chosen.rows.rdd.getNumPartitions() == 3
    assert len([line for line in scans if "text" in line]) == 1, plan
    assert len([line for line in shuffles if "text" in line]) <= 1, plan
    unscored = select.select_unscored(stored.select(*select.SAME, "num_bytes"), earlier)
    reads = [
        line
        for line in unscored._jdf.queryExecution().executedPlan().toString().splitlines()
        if "FileScan" in line
    ]
    assert len(reads) == 2
    assert not [line for line in reads if "text" in line.partition("ReadSchema")[2]], reads


def test_tasks_follow_from_rows_and_bytes():
    # 512 rows or 1 MiB of text a task, whichever gives more; never fewer than 4, more than 8,192.
    assert count_partitions(0, 0) == 4
    assert count_partitions(512 * 4, 10) == 4
    assert count_partitions(512 * 4 + 1, 10) == 5
    assert count_partitions(10, 5 * 2**20 + 1) == 6
    assert count_partitions(10**9, 10**12) == 8192


def test_equal_documents_are_dealt_alike_on_any_cluster(spark, documents):
    def dealt(rows):
        numbered = select.deal(rows).select(F.spark_partition_id().alias("task"), "doc_id")
        return [(row.task, row.doc_id) for row in numbered.collect()]

    first = dealt(documents)
    assert len({task for task, _ in first}) == 4
    before = spark.conf.get("spark.sql.shuffle.partitions")
    spark.conf.set("spark.sql.shuffle.partitions", 7)
    try:
        assert dealt(documents.repartition(5, F.rand(1))) == first
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", before)


def write_without_adapters(predictions, path):
    """A table as it was before the column `adapter`, by the code of then."""
    ddl = PREDICTIONS.ddl.rpartition(",\n")[0]
    key = tuple(name for name in PREDICTIONS.key if name != "adapter")
    replace(PREDICTIONS, ddl=ddl, key=key, later=()).append(
        predictions.drop("adapter"), path, fingerprint="earlier", facts={}
    )


def test_a_table_of_before_adapters_goes_on(spark, documents, tmp_path):
    path = str(tmp_path / "predictions")
    write_without_adapters(as_predictions(documents.where("doc_id < 'd30'")), path)
    earlier = read_predictions(spark, path)
    assert earlier.where("adapter IS NULL").count() == 30
    with choose_documents(documents, earlier, MODEL, num_partitions=2) as chosen:
        assert (chosen.num_rows, chosen.num_before) == (2, 30)
    # Another driver has compared nothing: a null adapter equals a null adapter.
    pin = PREDICTIONS.append(as_predictions(documents), path, fingerprint="whole", facts={})
    assert pin.num_rows == 2
    named = as_predictions(documents).withColumn("adapter", F.lit("mood"))
    assert PREDICTIONS.append(named, path, fingerprint="named", facts={}).num_rows == 32
    rows = PREDICTIONS.read(spark, path)
    counts = {row.adapter: row["count"] for row in rows.groupBy("adapter").count().collect()}
    assert counts == {None: 32, "mood": 32}
    assert rows.schema["adapter"].metadata["comment"]
    twice = as_predictions(documents.where("doc_id = 'd00'"))
    with pytest.raises(ContractError, match=r"1 of 2 rows repeat a key .*'adapter': None"):
        PREDICTIONS.append(twice.union(twice), path, fingerprint="twice", facts={})


def test_a_document_is_scored_again_by_another_adapter(documents, scored):
    assert choose(documents.withColumn("adapter", F.lit("mood")), scored)[1:] == (32, 32)
    by_mood = scored.withColumn("adapter", F.lit("mood"))
    assert choose(documents.withColumn("adapter", F.lit("mood")), by_mood)[1:] == (0, 32)
    assert choose(documents, by_mood)[1:] == (32, 32)


def test_an_earlier_table_is_refused_before_scoring(spark, tmp_path):
    path = str(tmp_path / "predictions")
    assert read_predictions(spark, path) is None
    write_deltalake(path, pa.table({"doc_id": ["d"], "text": ["t"]}))
    with pytest.raises(ContractError, match=r"it has no column content_hash, .*; move or delete the table"):
        read_predictions(spark, path)
