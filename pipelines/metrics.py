"""Metrics by name: their direction and their formula over plain numbers. Standard library only."""

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """A number that says how good a model is."""

    name: str
    higher_is_better: bool
    formula: Callable[..., float]


def accuracy(num_correct: float, num_documents: float) -> float:
    """Share of documents with the right class; nan without documents."""
    return num_correct / num_documents if num_documents else math.nan


def bits_per_byte(nats: float, num_bytes: float) -> float:
    """Loss in bits per UTF-8 byte of text; nan without bytes."""
    return nats / math.log(2) / num_bytes if num_bytes else math.nan


METRICS = {
    metric.name: metric
    for metric in (
        Metric(name="accuracy", higher_is_better=True, formula=accuracy),
        Metric(name="bits_per_byte", higher_is_better=False, formula=bits_per_byte),
    )
}
