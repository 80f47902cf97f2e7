"""Identity of a document (doc_id) and of its content (content_hash): 128 bits of sha256, as 32 hex digits.

Computed by Spark SQL's sha2: no Python, equal on every machine, and repeatable with any sha256 tool.
"""

from pyspark.sql import Column
from pyspark.sql import functions as F

# The name of a source cannot contain it. What can (file, key) comes last, so two different inputs never give
# the same string.
_SEPARATOR = "\x1f"
# Texts never contain it, so the hash input of a structured document is never the text of a plain one.
_NUL = "\0"


def doc_id(source: Column, key: Column, file: Column, offset: Column) -> Column:
    """The id from source and key; from source, file and offset if key is null.

    sha256 of 'SOURCE<US>key<US>KEY' or 'SOURCE<US>position<US>OFFSET<US>FILE', where US is the character
    U+001F.
    """
    by_key = F.concat_ws(_SEPARATOR, source, F.lit("key"), key)
    by_position = F.concat_ws(_SEPARATOR, source, F.lit("position"), offset.cast("string"), file)
    return _hash(F.when(key.isNotNull(), by_key).otherwise(by_position))


def content_hash(text: Column, parts: Column) -> Column:
    """The hash of what the document says: equal contents have equal hashes, in all sources.

    parts null: sha256 of the text. Otherwise sha256 of a NUL, the text, and name and text of each part, each
    string written as its number of UTF-8 bytes, ':', the string and ',' (a netstring), so two dialogues with
    other roles differ.
    """
    strings = F.concat(
        F.array(text), F.flatten(F.transform(parts, lambda part: F.array(part["name"], part["text"])))
    )
    structured = F.concat(F.lit(_NUL), F.array_join(F.transform(strings, _netstring), ""))
    return _hash(F.when(parts.isNull(), text).otherwise(structured))


def _netstring(value: Column) -> Column:
    return F.concat(F.octet_length(value).cast("string"), F.lit(":"), value, F.lit(","))


def _hash(value: Column) -> Column:
    return F.substring(F.sha2(value.cast("binary"), 256), 1, 32)
