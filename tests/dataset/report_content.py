"""Contents of reports of sequences made by hand, for tests of page, numbers and pictures."""

from pipelines.dataset.report.content import FULL, Content, Documents, Piece, Sample, SampleSegment, Sequences
from pipelines.report import TableVersion


def make_segment(*pieces, **values):
    num_tokens = sum(len(piece.ids) for piece in pieces)
    own = {"doc_id": "ab" * 16, "first_token": 0, "num_tokens": num_tokens, "char_start": 0, "char_end": 9}
    return SampleSegment(**{**own, **values}, pieces=pieces)


def make_sample(*segments, **values):
    num_tokens = sum(segment.num_tokens for segment in segments)
    own = {"split": "train", "sequence_id": 4711, "num_tokens": num_tokens, "num_targets": 2, "label": None}
    own |= {"num_segments": len(segments), "first_token": 0}
    return Sample(**{**own, **values}, segments=segments)


def make_content(**values):
    """10 sequences of at most 8 tokens, in two splits, from 16 documents of two sources."""
    tables = [
        TableVersion(name=name, version=3, digest=digest * 16, num_rows=rows, written="2026-01-02 03:04 UTC")
        for name, digest, rows in (("sequences", "cd", 10), ("documents", "ef", 20))
    ]
    own = {
        "title": "web",
        "tables": tables,
        "task": "language_modelling",
        "sequence_length": 8,
        "num_labels": 0,
        "tokenizer": "12" * 16,
        "lengths": {
            ("train", 4): Sequences(6, 48, 40, 3),
            ("train", 3): Sequences(2, 12, 9),
            ("test", 4): Sequences(1, 8, 7, 1),
            ("test", 1): Sequences(1, 1, 0),
        },
        "fills": {("train", FULL): 6, ("train", 7): 2, ("test", FULL): 1, ("test", 1): 1},
        "documents": {
            ("train", "web", 2): Documents(9, 25, 10),
            ("train", "web", 5): Documents(1, 20, 3, 7),
            ("train", "news", 3): Documents(3, 15, 3),
            ("test", "news", 2): Documents(3, 9, 4),
        },
        "samples": [
            make_sample(
                make_segment(
                    Piece("我的", (5, 6)),
                    Piece("卡\n", (7,), is_target=True),
                    Piece("<|end|>", (0,), is_target=True, is_special=True),
                )
            )
        ],
    }
    return Content(**{**own, **values})
