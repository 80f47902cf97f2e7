"""Who a document is and what it says, as 128 bits of sha256 in 32 hex digits.

sha2 of Spark SQL: no Python, the same on every machine, and repeatable with any sha256 tool.
"""

from pyspark.sql import Column
from pyspark.sql import functions as F

_SEPARATOR = "\x1f"  # a source's name cannot hold it; what can (file, key) stands last, so no two inputs meet in one string


def doc_id(source: Column, key: Column, file: Column, offset: Column) -> Column:
    """The id by source and key; by source, file and offset where key is null.

    sha256 over 'SOURCE<US>key<US>KEY' or 'SOURCE<US>position<US>OFFSET<US>FILE', US being the character U+001F.
    """
    by_key = F.concat_ws(_SEPARATOR, source, F.lit("key"), key)
    by_position = F.concat_ws(_SEPARATOR, source, F.lit("position"), offset.cast("string"), file)
    return _hash(F.when(key.isNotNull(), by_key).otherwise(by_position))


def content_hash(text: Column) -> Column:
    """The hash of the text alone: equal texts of all sources have one hash."""
    return _hash(text)


def _hash(value: Column) -> Column:
    return F.substring(F.sha2(value.cast("binary"), 256), 1, 32)
