"""Metrics: name, direction and formula, for training, the gate and scoring alike.

A formula takes plain numbers that can be summed over batches, ranks or rows of a table, and its argument
names say which ones. Training sums tensors, scoring sums columns with Spark, and both call the formula here.
Standard library only, so that every layer can import it. A new metric is one entry of METRICS.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_EXPONENT = 700.0
"""exp(700) is near the largest double: the perplexity of a diverged model stays a number."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One number that says how good a model is."""

    name: str
    higher_is_better: bool
    formula: Callable[..., float]
    """Sums to the value. Its arguments are names of sums."""
    ties_by: str | None = None
    """Metric that says during training which of two equal values is better; None = neither is."""

    @property
    def sums(self) -> tuple[str, ...]:
        """Names of the sums that the formula takes."""
        return tuple(inspect.signature(self.formula).parameters)

    def compute(self, sums: Mapping[str, Any]) -> float:
        """The value. `sums` may hold more than the formula takes."""
        return self.formula(**{name: sums[name] for name in self.sums})

    def gain(self, new: float, old: float) -> float:
        """How much better `new` is than `old`: positive = better, whatever the direction of the metric."""
        return new - old if self.higher_is_better else old - new


def accuracy(num_correct: float, num_labelled: float) -> float:
    """Fraction of the labelled rows whose predicted class is their label."""
    return num_correct / _positive("num_labelled", num_labelled)


def macro_f1(
    class_matches: Sequence[float], class_labels: Sequence[float], class_predictions: Sequence[float]
) -> float:
    """Mean F1 over the classes that occur as a label. Of each class: how often it was both label and
    prediction, how often label, how often prediction."""
    scores = [
        2 * both / (label + prediction)
        for both, label, prediction in zip(class_matches, class_labels, class_predictions, strict=True)
        if label > 0
    ]
    return sum(scores) / _positive("classes that occur", len(scores))


def micro_f1(num_matches: float, num_labels: float, num_predictions: float) -> float:
    """F1 over all pairs of document and class: how many were both label and prediction, how many label, how
    many prediction. A document without labels counts by what was predicted for it."""
    return 2 * num_matches / (_positive("num_labels", num_labels) + num_predictions)


def exact_match(num_exact: float, num_labelled: float) -> float:
    """Fraction of the labelled documents whose predicted set of labels is exactly theirs."""
    return num_exact / _positive("num_labelled", num_labelled)


def loss(nats: float, num_targets: float) -> float:
    """Mean loss of a target, in nats."""
    return nats / _positive("num_targets", num_targets)


def perplexity(nats: float, num_targets: float) -> float:
    """exp of the mean loss of a token."""
    return math.exp(min(loss(nats, num_targets), MAX_EXPONENT))


def bits_per_byte(nats: float, num_bytes: float) -> float:
    """Bits for one UTF-8 byte of the text behind the targets: comparable between tokenizers, unlike the loss
    of a token.
    """
    return nats / math.log(2) / _positive("num_bytes", num_bytes)


def preference_accuracy(num_preferred: float, num_pairs: float) -> float:
    """Fraction of the pairs of which the model finds the chosen response likelier than the rejected one, per
    token; a tie is no preference. Without a reference, so it compares models of any origin.
    """
    return num_preferred / _positive("num_pairs", num_pairs)


def reward_accuracy(num_rewarded: float, num_pairs: float) -> float:
    """Fraction of the pairs whose chosen response has the higher implied reward; ties count as wrong."""
    return num_rewarded / _positive("num_pairs", num_pairs)


def reward_margin(reward_margins: float, num_pairs: float) -> float:
    """Mean implied reward of a chosen response less that of its rejected one."""
    return reward_margins / _positive("num_pairs", num_pairs)


def recall_at_1(num_first: float, num_queries: float) -> float:
    """Fraction of the queries whose positive is nearer than every other candidate."""
    return num_first / _positive("num_queries", num_queries)


def mrr(reciprocal_ranks: float, num_queries: float) -> float:
    """Mean of 1 / rank of the positive of a query among its candidates; a tie counts against it."""
    return reciprocal_ranks / _positive("num_queries", num_queries)


def _positive(name: str, number: float) -> float:
    if not number > 0:
        raise ValueError(f"{name} must be above 0 for a metric, got {number}; measure rows that have targets")
    return number


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", True, accuracy),
        Metric("macro_f1", True, macro_f1),
        # 0 until the first probability reaches the threshold: with rare classes, for many evaluations.
        Metric("micro_f1", True, micro_f1, ties_by="loss"),
        Metric("exact_match", True, exact_match),
        Metric("preference_accuracy", True, preference_accuracy),
        Metric("reward_accuracy", True, reward_accuracy),
        Metric("reward_margin", True, reward_margin),
        Metric("bits_per_byte", False, bits_per_byte),
        Metric("perplexity", False, perplexity),
        Metric("loss", False, loss),
        Metric("recall_at_1", True, recall_at_1),
        Metric("mrr", True, mrr),
    )
}
