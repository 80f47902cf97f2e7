"""Which adapter of a bundle scores each document."""

from typing import TYPE_CHECKING

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StringType

from pipelines.scoring.place import place_model
from pipelines.scoring.pull import Place

if TYPE_CHECKING:
    from pipelines.registry.versions.resolve import LocatedModel
    from pipelines.scoring.select import ModelVersion


def place_adapters(
    documents: DataFrame, model: "LocatedModel", default: str | None, *, column: str | None
) -> tuple[Place, DataFrame]:
    """Where workers find the model, and the documents with the adapter that each of them names. Errors as
    `place_model` and `name_adapters`."""
    place = place_model(documents.sparkSession, model)
    return place, name_adapters(documents, place, model, default, column=column)


def name_adapters(
    documents: DataFrame, place: Place, model: "ModelVersion", default: str | None, *, column: str | None
) -> DataFrame:
    """Add the column adapter, which is null for a model that is no bundle. `column`: a text column of
    documents, else a key of their metadata; where it is null, and without one, `default`.

    Raises ValueError if nothing chooses among the adapters of a bundle, if there is none to choose, if
    `default` is not there, or if no document names an adapter and there is no default, for which documents
    are read until one does. What a document names is looked at when it is scored.
    """
    _require_choice(place, f"{model.name} version {model.version}", column, default)
    found = F.lit(None).cast("string")
    if column is not None:
        is_text = column in documents.columns and documents.schema[column].dataType == StringType()
        found = F.col(column) if is_text else F.try_element_at("metadata", F.lit(column))
        if default is None:
            _require_named(documents, found, column)
    return documents.withColumn("adapter", F.coalesce(found, F.lit(default)))


def _require_named(documents: DataFrame, found: Column, column: str) -> None:
    if documents.where(found.isNotNull()).isEmpty() and not documents.isEmpty():
        raise ValueError(
            f"scoring.adapter_column is {column!r}, but no document has a text column or a key of metadata "
            "of this name with a value; correct it, or set scoring.adapter for documents that name no adapter"
        )


def _require_choice(place: Place, what: str, column: str | None, default: str | None) -> None:
    if not place.adapters and (column is not None or default is not None):
        raise ValueError(
            f"scoring.adapter and scoring.adapter_column choose among the adapters of a bundle, but {what} "
            "is none; set both to null"
        )
    if default is not None and default not in place.adapters:
        raise ValueError(f"scoring.adapter is {default!r}, but {what} has {', '.join(place.adapters)}")
    if place.adapters and column is None and default is None:
        raise ValueError(
            f"{what} is a bundle of the adapters {', '.join(place.adapters)}; set scoring.adapter to one of "
            "them, or scoring.adapter_column to the column or key of metadata that names one"
        )
