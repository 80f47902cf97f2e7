"""Positions -> the tables of what the texts have of evaluation sets and word lists, and their facts."""

from collections.abc import Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines.corpus.decontamination import Decontamination
from pipelines.corpus.matching.evaluation import Index
from pipelines.corpus.word_list import WordList
from pipelines.tables import CONTAMINATION, WORD_MATCHES


def list_contamination(documents: DataFrame, settings: Decontamination) -> DataFrame:
    """Rows of CONTAMINATION of the documents in the splits that are looked at.

    Needs doc_id, source, split, hits and exceeds.
    """
    hits = documents.where(F.col("split").isin(*settings.drop_from)).withColumn("hit", F.explode("hits"))
    return hits.select("*", "hit.*").select(*CONTAMINATION.schema.names)


def count_contamination(hits: DataFrame, index: Index) -> dict[str, dict[str, int]]:
    """By evaluation set: its records, those too short to be compared, records that documents have, documents
    with a hit, those of them that exceed the limits, and hits. `hits` are rows of CONTAMINATION."""
    counted = hits.groupBy("evaluation_set").agg(
        F.count_distinct("record").alias("records_hit"),
        F.count_distinct("doc_id").alias("documents"),
        F.count_distinct(F.when(F.col("exceeds"), F.col("doc_id"))).alias("exceeding"),
        F.sum("num_ngrams").alias("ngrams"),
    )
    found = {row.evaluation_set: row.asDict() for row in counted.collect()}
    facts = {}
    sets = zip(index.settings.evaluation_sets, index.num_records, index.too_short, strict=True)
    for source, num_records, too_short in sets:
        of_set = found.get(source.name, {})
        facts[source.name] = {"records": num_records, "too_short": too_short} | {
            name: of_set.get(name, 0) for name in ("records_hit", "documents", "exceeding", "ngrams")
        }
    return facts


def list_word_matches(
    documents: DataFrame, word_lists: Sequence[WordList], signals: Sequence[str]
) -> DataFrame:
    """Rows of WORD_MATCHES. Needs doc_id and signals, the array of `signals`."""
    places = {name: place for place, name in enumerate(signals)}
    lists = []
    for each in word_lists:
        matches, fraction = (F.col("signals")[places[name]] for name in each.signals)
        lists.append(
            F.struct(
                F.lit(each.name).alias("word_list"),
                matches.cast("int").alias("num_matches"),
                fraction.alias("fraction"),
            )
        )
    rows = documents.select("doc_id", F.explode(F.array(*lists)).alias("found")).select("doc_id", "found.*")
    return rows.where("num_matches > 0").select(*WORD_MATCHES.schema.names)
