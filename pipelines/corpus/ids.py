"""Identity of a document (doc_id) and of its content (content_hash): 128 bits of sha256, as 32 hex digits.

Computed where the record is read, so that texts need not travel to be compared: hashlib takes 8 microseconds
for 4 kB. Equal on every machine, and repeatable with any sha256 tool.
"""

from collections.abc import Sequence
from hashlib import sha256

# The name of a source cannot contain it. What can (file, key) comes last, so two different inputs never give
# the same string.
_SEPARATOR = "\x1f"
_NUM_DIGITS = 32


def doc_id(source: str, key: str | None, file: str, offset: int) -> str:
    """The id from source and key; from source, file and offset if key is None.

    sha256 of 'SOURCE<US>key<US>KEY' or 'SOURCE<US>position<US>OFFSET<US>FILE', where US is the character
    U+001F.
    """
    place = ("position", str(offset), file) if key is None else ("key", key)
    return sha256(_SEPARATOR.join((source, *place)).encode()).hexdigest()[:_NUM_DIGITS]


def content_hash(text: bytes, parts: Sequence[tuple[str, str]] | None) -> str:
    """The hash of what the document says: equal contents have equal hashes, in all sources. `text` is UTF-8.

    parts None: sha256 of the text. Otherwise sha256 of a NUL, the text, and name and text of each part, each
    string written as its number of UTF-8 bytes, ':', the string and ',' (a netstring), so two dialogues with
    other roles differ. Texts never contain NUL, so this is never the hash of a plain text.
    """
    if parts is None:
        return sha256(text).hexdigest()[:_NUM_DIGITS]
    strings = [text, *(value.encode() for part in parts for value in part)]
    return sha256(b"\0" + b"".join(b"%d:%s," % (len(s), s) for s in strings)).hexdigest()[:_NUM_DIGITS]
