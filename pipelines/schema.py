"""Columns as text (DDL), as Spark types and as Arrow types: the text is the source of the others."""

import pyarrow as pa
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructType


def parse_ddl(ddl: str) -> StructType:
    """The Spark type of rows with these columns. Needs the running JVM."""
    schema = StructType.fromDDL(ddl)
    assert isinstance(schema, StructType), f"the DDL names no columns: {ddl}"
    return schema


def arrow_schema(ddl: str) -> pa.Schema:
    """The Arrow schema of rows with these columns.

    Needs the running JVM: derive it on the driver, and let the function that runs in the Python workers close
    over it.
    """
    return pa.schema([column.remove_metadata() for column in to_arrow_schema(parse_ddl(ddl), timezone="UTC")])
