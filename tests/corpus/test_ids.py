"""Hashes of contents, against hashlib."""

import hashlib

from pipelines.corpus.ids import content_hash


def sha(text):
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def test_content_hash_covers_names_and_order_of_parts():
    dialogues = [
        None,
        [("user", "a"), ("assistant", "b")],
        [("assistant", "a"), ("user", "b")],
        [("user", "a\n\nb")],
        [("user", "a"), ("assistant", "你")],
        [],
    ]
    found = [content_hash(b"a\n\nb", parts) for parts in dialogues]
    netstrings = [
        "\0" + "4:a\n\nb," + "".join(f"{len(v.encode())}:{v}," for part in parts for v in part)
        for parts in dialogues[1:]
    ]
    assert found == [sha("a\n\nb"), *map(sha, netstrings)]
    assert len(set(found)) == 6
