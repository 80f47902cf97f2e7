"""The rows that a training reads: those of its splits, or of the folds of train."""

from typing import NamedTuple

import numpy as np

from pipelines.dataset.examples.table import load_builder
from pipelines.dataset.folds import read_folds
from pipelines.dataset.reader import SequenceReader, open_split
from pipelines.finetune.evaluate import choose_rows
from pipelines.finetune.training import Training


class Splits(NamedTuple):
    """Readers of the rows."""

    train: SequenceReader
    evaluation: SequenceReader
    """Measured during training."""
    final: SequenceReader
    """Measured before the first and after the last step."""


def open_splits(training: Training, num_replicas: int) -> Splits:
    """The rows of a training. Raises ValueError if a part has fewer rows than there are replicas, or if no
    metric of the task is defined on one that is measured."""
    data = training.data
    if data.fold is None:
        names = ("train", data.evaluation_split, data.final_split)
        opened = {name: _open(training, name, num_replicas) for name in dict.fromkeys(names)}
        for name in dict.fromkeys(names[1:]):
            _require_labels(training, f"split {name}", opened[name])
        return Splits(*(opened[name] for name in names))
    whole = _open(training, "train", num_replicas)
    is_held = read_folds(data.fold.file, len(whole)) == data.fold.number  # (num_rows,)
    held, rest = whole.select(np.flatnonzero(is_held)), whole.select(np.flatnonzero(~is_held))
    for reader, part in ((held, "in"), (rest, "outside")):
        _require_rows(training, f"train {part} fold {data.fold.number}", reader, num_replicas)
    _require_labels(training, f"split train in fold {data.fold.number}", held)
    return Splits(rest, held, held)


def _open(training: Training, split: str, num_replicas: int) -> SequenceReader:
    data, most_gb = training.data, training.execution.max_copies_gb
    reader = open_split(
        data.sequences,
        table_id=data.table_id,
        version=data.version,
        split=split,
        max_bytes=None if most_gb is None else int(most_gb * 1e9),
    )
    _require_rows(training, split, reader, num_replicas)
    return reader


def _require_rows(training: Training, split: str, reader: SequenceReader, num_replicas: int) -> None:
    if len(reader) < num_replicas:
        raise ValueError(
            f"split {split} of {training.data.sequences} has {len(reader)} sequences, "
            f"fewer than the {num_replicas} ranks; lower finetune.num_ranks, give the "
            "sources a larger split (corpus.sources[].splits), or choose another "
            "finetune.evaluation_split or final_split"
        )


def _require_labels(training: Training, part: str, reader: SequenceReader) -> None:
    """Sets of labels may be empty, but if all are, there is nothing that a model could find."""
    if not load_builder(training.spec.task).has_label_sets:
        return
    most = training.cadence.max_evaluation_sequences
    measured = choose_rows(len(reader), most)
    if not reader.count_classes(measured).any():
        limit = "" if most is None or len(reader) <= most else ", raise finetune.max_evaluation_sequences"
        raise ValueError(
            f"{part} of {training.data.sequences}: none of the {len(measured):,} sequences that are measured "
            "has a label, so there is no micro_f1; give the sources a larger split "
            f"(corpus.sources[].splits){limit}, or choose another finetune.evaluation_split or final_split"
        )
