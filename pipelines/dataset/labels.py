"""The classes of a task: the names of labels in the kept documents of all splits, in order of code point. The
number of a class is the place of its name. They are kept with the table, so they are fixed until it is built
again."""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipelines.delta import ContractError

MAX_LABELS = 2_000
"""An evaluation counts a matrix of classes x classes."""
_NULL, _NO_SET, _NAME = "null", "no set", "name"


def list_labels(kept: DataFrame, *, are_sets: bool) -> tuple[str, ...]:
    """The names of the classes: one Spark job over a small column. `are_sets`: a label is a set of names
    (pipelines/label_sets.py), and a document may have none.

    Raises ContractError if a document has no label, if a label is no set where it should be, or if there are
    too few or too many classes.
    """
    label = F.col("label")
    if are_sets:
        names = F.from_json("label", "array<string>")
        # Null if it is no array: then it is no set either.
        is_set = F.forall(names, lambda name: name.isNotNull() & (name != ""))
        found = (
            F.when(label.isNull(), F.array(_mark(_NULL, F.lit(None))))
            .when(is_set, F.transform(names, lambda name: _mark(_NAME, name)))
            .otherwise(F.array(_mark(_NO_SET, F.lit(None))))
        )
    else:
        found = F.array(F.when(label.isNull(), _mark(_NULL, label)).otherwise(_mark(_NAME, label)))
    # Classes, one too many, and the two kinds of no name.
    rows = kept.select(F.explode(found).alias("found")).groupBy("found").count().limit(MAX_LABELS + 3)
    counts = {(row["found"]["kind"], row["found"]["name"]): row["count"] for row in rows.collect()}
    _require_labels(counts.pop((_NULL, None), 0), counts.pop((_NO_SET, None), 0), are_sets=are_sets)
    return _require_classes(sorted(name for _, name in counts), min_classes=1 if are_sets else 2)


def _mark(kind: str, name: Column) -> Column:
    return F.struct(F.lit(kind).alias("kind"), name.cast("string").alias("name"))


def _require_labels(num_null: int, num_no_sets: int, *, are_sets: bool) -> None:
    field, one = ("labels", "a set of labels") if are_sets else ("label", "one")
    if num_null:
        raise ContractError(
            f"documents: {num_null:,} kept rows have no label, but dataset.task needs {one} per document; "
            f"map corpus.sources[].fields.{field}"
        )
    if num_no_sets:
        raise ContractError(
            f"documents: the label of {num_no_sets:,} kept rows is no JSON array of names, each at least one "
            "character, but dataset.task needs a set of labels per document; map "
            "corpus.sources[].fields.labels instead of fields.label, and run the corpus stage"
        )


def _require_classes(names: list[str], *, min_classes: int) -> tuple[str, ...]:
    if len(names) > MAX_LABELS:
        raise ContractError(
            f"documents: more than {MAX_LABELS:,} different labels; is the label mapped to a free-text field?"
        )
    if len(names) < min_classes:
        raise ContractError(
            f"documents: classification needs at least {min_classes} different labels, got {names}"
        )
    return tuple(names)
