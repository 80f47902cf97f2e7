"""Sequences that a report shows, decoded token by token.

A hash of split and sequence_id chooses, so equal tables show equal samples, and what is added to a table
changes few of them. Two Spark jobs: one reads the numbers of the sequences only, the other the rows that were
chosen, whose row groups it finds by the number. About 40 numbers of each split reach the driver.
"""

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines.corpus.report.texts import limit_place
from pipelines.dataset.arrays import mark_runs
from pipelines.dataset.report.content import SPLITS, Sample, SampleSegment
from pipelines.dataset.report.decoding import PieceDecoder

NUM_SAMPLES = 3
"""Sequences of each split, at most."""
SAMPLE_TOKENS = 512
"""Tokens of a sequence that are shown, at most."""
_CANDIDATES = 40
"""Expected numbers per split from which the samples are taken: fewer than 3 come with p = 1e-14."""


def choose_samples(
    sequences: DataFrame, num_rows: Mapping[str, int], decoder: PieceDecoder, labels: Sequence[str]
) -> list[Sample]:
    """`num_rows`: of each split. In the order of the splits; of a split, as the hash orders them."""
    chosen = _choose_ids(sequences, num_rows)
    if not chosen:
        return []
    wanted = reduce(
        or_, ((F.col("split") == split) & F.col("sequence_id").isin(ids) for split, ids in chosen.items())
    )
    rows = {(row["split"], row["sequence_id"]): row for row in sequences.where(wanted).collect()}
    return [
        make_sample(rows[split, number].asDict(recursive=True), decoder, labels)
        for split, ids in chosen.items()
        for number in ids
    ]


def _choose_ids(sequences: DataFrame, num_rows: Mapping[str, int]) -> dict[str, list[int]]:
    """Split -> its sequences with the smallest hashes."""
    place = F.xxhash64("split", "sequence_id")
    limits = [
        (F.col("split") == split) & (place <= limit_place(_CANDIDATES, number))
        for split, number in num_rows.items()
    ]
    if not limits:
        return {}
    found = (
        sequences.where(reduce(or_, limits)).select("split", "sequence_id", place.alias("place")).collect()
    )
    chosen: dict[str, list[int]] = {split: [] for split in sorted(num_rows, key=_order_split)}
    for row in sorted(found, key=lambda row: (row.place, row.sequence_id)):
        if len(chosen[row.split]) < NUM_SAMPLES:
            chosen[row.split].append(row.sequence_id)
    return chosen


def _order_split(split: str) -> tuple[int, str]:
    return (SPLITS.index(split) if split in SPLITS else len(SPLITS)), split


def make_sample(row: Mapping[str, Any], decoder: PieceDecoder, labels: Sequence[str]) -> Sample:
    """A row of SEQUENCES as it is shown; `labels` may be missing (pinned_files.LATER_COLUMNS)."""
    label_set = row.get("labels")
    runs = [np.array([run[name] for run in row["targets"]], int) for name in ("first_token", "num_tokens")]
    is_target = mark_runs(*runs, size=row["num_tokens"])  # (num_tokens,)
    first = find_window(is_target)
    segments = []
    for segment in row["segments"]:
        start = max(first, segment["first_token"])
        stop = min(first + SAMPLE_TOKENS, segment["first_token"] + segment["num_tokens"])
        if start < stop:
            pieces = decoder.decode(row["input_ids"][start:stop], is_target[start:stop].tolist())
            segments.append(SampleSegment(**segment, pieces=pieces))
    return Sample(
        split=row["split"],
        sequence_id=row["sequence_id"],
        num_tokens=row["num_tokens"],
        num_targets=row["num_targets"],
        num_segments=len(row["segments"]),
        label=labels[row["label"]] if labels and row["label"] is not None else None,
        label_set=None if label_set is None else [labels[number] for number in label_set],
        first_token=first,
        segments=segments,
    )


def find_window(is_target: np.ndarray) -> int:
    """The first token that is shown: 0; if the first target would not be seen, a quarter of what is shown
    before it."""
    targets = np.flatnonzero(is_target)
    if not len(targets) or targets[0] < SAMPLE_TOKENS * 3 // 4:
        return 0
    return int(targets[0]) - SAMPLE_TOKENS // 4
