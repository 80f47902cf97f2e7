"""Is the challenger better than the champion? Two measurements in, one verdict out; no I/O.

Only measurements on equal rows can be compared: each names the digest of its rows. A tie keeps the champion,
because replacing a model that people rely on needs a reason.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from pipelines.metrics import METRICS

DIGITS = 12
"""Decimals of a gain. Smaller differences are rounding errors: 0.9 - 0.8 is less than 0.1."""

MAX_UNREADABLE_FRACTION = 0.1
"""Share of the held-out documents that a challenger's template may refuse. Its value says little of more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """The metric of one model version on one set of rows."""

    model_version: int
    task: str
    """What the model does: bits per byte of a chat and of its text are not one thing."""
    metric: str
    value: float
    num_rows: int
    rows_digest: str
    """Digest of these rows: equal digests mean equal rows."""
    num_unreadable: int = 0
    """Rows that could not be written with the template of the model."""
    first_problem: str | None = None
    """Why the first one could not, by doc_id; None = all could."""

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(f"unknown metric '{self.metric}'; known: {', '.join(METRICS)}")
        if self.num_rows < 1:
            raise ValueError(
                f"version {self.model_version} was measured on {self.num_rows} rows; at least 1 is needed"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The decision and everything that it is based on."""

    promote: bool
    reason: str
    metric: str
    gain: float | None
    """Improvement over the champion, positive = better; None if there was no champion or a value is not a
    number."""
    min_gain: float
    challenger: Measurement
    champion: Measurement | None
    decontamination: list[dict[str, Any]] | None = None
    """Evaluation sets that the documents of the run were compared with, and what was found; None = the gate
    did not ask."""

    def to_dict(self) -> dict[str, object]:
        """For verdict.json: plain types. A value that is not finite becomes null, because JSON has no NaN."""
        return {name: _replace_not_finite(value) for name, value in asdict(self).items()}


class KeptVerdict(NamedTuple):
    """A verdict that was applied earlier."""

    model_version: int
    reason: str


def decide(challenger: Measurement, champion: Measurement | None, *, min_gain: float = 0.0) -> Verdict:
    """Promote if there is no champion or the gain is above zero and at least `min_gain` (in units of the
    metric).

    Raises ValueError if the two have different tasks, or were not measured with one metric on the same rows.
    """
    if not 0 <= min_gain < math.inf:
        raise ValueError(f"min_gain must be at least 0 and finite, got {min_gain}")
    gain = None if champion is None else _gain(challenger, champion)
    promote, reason = _judge(challenger, champion, gain, min_gain)
    if challenger.num_unreadable:
        share = challenger.num_unreadable / challenger.num_rows
        reason += f"; {describe_unreadable(challenger.num_unreadable, challenger.first_problem)}"
        if share > MAX_UNREADABLE_FRACTION:
            promote, reason = False, f"{reason}: {share:.1%}, at most {MAX_UNREADABLE_FRACTION:.0%} may be"
    return Verdict(
        promote=promote,
        reason=reason,
        metric=challenger.metric,
        gain=gain,
        min_gain=min_gain,
        challenger=challenger,
        champion=champion,
    )


def describe_unreadable(num_documents: int, first: str | None) -> str:
    return f"{num_documents:,} documents could not be written with the template; first: {first}"


def _gain(challenger: Measurement, champion: Measurement) -> float | None:
    if challenger.task != champion.task:
        raise ValueError(
            f"version {challenger.model_version} has task {challenger.task}, the champion, version "
            f"{champion.model_version}, task {champion.task}; give the new task another registry.name"
        )
    if challenger.metric != champion.metric:
        raise ValueError(
            f"version {challenger.model_version} was measured by {challenger.metric}, "
            f"version {champion.model_version} by {champion.metric}; measure both with one metric"
        )
    measured_on = [(e.rows_digest, e.num_rows) for e in (challenger, champion)]
    if measured_on[0] != measured_on[1]:
        raise ValueError(
            f"versions {challenger.model_version} and {champion.model_version} were measured on different "
            f"rows ({challenger.num_rows:,} with digest {challenger.rows_digest}, {champion.num_rows:,} with "
            f"digest {champion.rows_digest}); score both on one version of documents"
        )
    gain = METRICS[challenger.metric].gain(challenger.value, champion.value)
    return round(gain, DIGITS) if math.isfinite(gain) else None


def _judge(
    challenger: Measurement, champion: Measurement | None, gain: float | None, min_gain: float
) -> tuple[bool, str]:
    metric = challenger.metric
    if not math.isfinite(challenger.value):
        value = f"{metric} of version {challenger.model_version} is {challenger.value}"
        return False, f"{value}: a diverged model is never promoted"
    if champion is None:
        return True, f"no champion yet; {metric} {challenger.value:.4f}"
    both = f"{metric} {challenger.value:.4f} against {champion.value:.4f} of version {champion.model_version}"
    if gain is None:
        return True, f"{both}: the champion's value is not a number"
    if gain <= 0:
        return False, f"{both}: {'a tie keeps the champion' if gain == 0 else 'no gain'}"
    if gain < round(min_gain, DIGITS):
        return False, f"{both}: gain {gain:.4f} is below min_gain {min_gain}"
    return True, f"{both}: gain {gain:.4f}"


def _replace_not_finite(value: object) -> object:
    if isinstance(value, dict):
        return {name: _replace_not_finite(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
