"""How good the predictions of a table are: Spark computes sums, `pipelines.metrics` holds the formulas."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines.digest import digest_rows
from pipelines.metrics import METRICS
from pipelines.registry.gate.decide import Measurement

_PREDICTED_SET = "from_json(prediction, 'array<string>')"
# A document of another corpus may have a single label, which is no JSON: a set of one. Or JSON that
# pipelines/label_sets.py did not write: with blanks, in another order, with a name twice.
_LABEL_SET = "array_distinct(coalesce(from_json(label, 'array<string>'), array(label)))"
_IF_LABELLED = "FILTER (WHERE label IS NOT NULL)"

SUMS = {
    "num_labelled": "count(label)",
    "num_correct": "count_if(label = prediction)",
    "num_exact": f"count_if(array_sort({_LABEL_SET}) = array_sort({_PREDICTED_SET})) {_IF_LABELLED}",
    # Of sets of labels (pipelines/label_sets.py). A name that the model does not know is never a match.
    "num_matches": f"coalesce(sum(size(array_intersect({_LABEL_SET}, {_PREDICTED_SET}))) {_IF_LABELLED}, 0)",
    "num_labels": f"coalesce(sum(size({_LABEL_SET})) {_IF_LABELLED}, 0)",
    "num_predictions": f"coalesce(sum(size({_PREDICTED_SET})) {_IF_LABELLED}, 0)",
    "num_bytes": "coalesce(sum(num_bytes), 0)",
    # The score of a preference says by how much the chosen response is likelier; other rows are no pairs.
    "num_pairs": "count_if(num_bytes > 0)",
    # Spark orders NaN above every number: a diverged model would win every pair.
    "num_preferred": "CASE WHEN count_if(num_bytes > 0 AND isnan(score)) > 0 THEN double('NaN') "
    "ELSE count_if(num_bytes > 0 AND score > 0) END",
    # The score of a language model is bits per byte.
    "nats": "coalesce(sum(score * num_bytes), 0D) * ln(2D)",
    # Only pairs of query and positive have a rank.
    "num_queries": "count(reciprocal_rank)",
    "num_first": "CASE WHEN count_if(isnan(reciprocal_rank)) > 0 THEN double('NaN') "
    "ELSE count_if(reciprocal_rank = 1) END",
    "reciprocal_ranks": "coalesce(sum(reciprocal_rank), 0D)",
}
"""Name of a sum, as the formulas call it -> how PREDICTIONS gives it, in SQL."""
LABEL_SUMS = {"num_labelled", "num_labels"}
"""A metric with one of them measures the documents that have a label."""


def find_problems(predictions: DataFrame) -> tuple[int, str | None]:
    """How many documents could not be read, and why the first one by doc_id could not. One job, over small
    columns."""
    found = predictions.agg(
        F.count("problem").alias("num_documents"),
        F.expr("min_by(problem, doc_id) FILTER (WHERE problem IS NOT NULL)").alias("first_problem"),
    ).collect()[0]
    return int(found.num_documents), found.first_problem


def compute_metric(predictions: DataFrame, metric: str) -> float:
    """The value of `metric` over all rows; rows without a label do not count for metrics of labels.

    Long texts weigh more in bits per byte. Raises ValueError if no row counts, or if predictions do not hold
    the sums.
    """
    needed = METRICS[metric].sums
    missing = [name for name in needed if name not in SUMS]
    if missing:
        computable = [name for name, each in METRICS.items() if set(each.sums) <= set(SUMS)]
        raise ValueError(
            f"metric {metric} needs {', '.join(missing)}, which the predictions table does not hold; "
            f"take one of: {', '.join(computable)}"
        )
    totals = predictions.agg(*[F.expr(SUMS[name]).alias(name) for name in needed]).collect()[0]
    try:
        return METRICS[metric].compute(totals.asDict())
    except ValueError as error:
        raise ValueError(
            f"the scored documents have no {metric} ({error}); score a split with texts and, for "
            "classification, labels"
        ) from error


def count_confusion(predictions: DataFrame) -> DataFrame:
    """(label, prediction, num_documents) of labelled documents, most frequent first; at most C x C rows."""
    return (
        predictions.where("label IS NOT NULL")
        .groupBy("label", "prediction")
        .agg(F.count("*").alias("num_documents"))
        .orderBy(F.desc("num_documents"), "label", "prediction")
    )


def evaluate_predictions(
    predictions: DataFrame, *, model_version: int, task: str, metric: str
) -> Measurement:
    """What the gate compares: the metric, and a digest of the documents behind it (id, text and label, no
    predictions)."""
    uses_labels = not LABEL_SUMS.isdisjoint(METRICS[metric].sums)
    counted = predictions.where("label IS NOT NULL") if uses_labels else predictions
    num_unreadable, first_problem = find_problems(counted)
    rows_digest, num_rows = digest_rows(counted, ("doc_id", "label", "text"))
    return Measurement(
        model_version=model_version,
        task=task,
        metric=metric,
        value=compute_metric(predictions, metric),
        num_rows=num_rows,
        rows_digest=rows_digest,
        num_unreadable=num_unreadable,
        first_problem=first_problem,
    )
