"""Is the challenger better than the champion? Two evaluations in, one verdict out; no I/O.

A comparison counts only on equal rows: both evaluations name the digest of what they were measured on. A tie keeps the champion,
because replacing a model that people rely on needs a reason.
"""

import math
from dataclasses import asdict, dataclass

from pipelines.metrics import METRICS

DIGITS = 12
"""Decimals of a gain; below them is the noise of floats: 0.9 - 0.8 is less than 0.1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """One model version measured once on one set of rows."""

    model_version: int
    metric: str
    value: float
    num_rows: int
    rows_digest: str
    """Digest of the rows measured on; equal digest, equal rows."""

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(f"unknown metric '{self.metric}'; known: {', '.join(METRICS)}")
        if self.num_rows < 1:
            raise ValueError(
                f"version {self.model_version} was evaluated on {self.num_rows} rows; at least 1 is needed"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The decision and everything it rests on."""

    promote: bool
    reason: str
    metric: str
    gain: float | None
    """Improvement over the champion, positive = better; null = there was no champion or a value is not a number."""
    min_gain: float
    challenger: Evaluation
    champion: Evaluation | None

    def to_dict(self) -> dict[str, object]:
        """For verdict.json: plain types; a value that is not finite becomes null, which JSON can carry."""
        return {name: _finite(value) for name, value in asdict(self).items()}


def decide(challenger: Evaluation, champion: Evaluation | None, *, min_gain: float = 0.0) -> Verdict:
    """Promote if there is no champion or the gain is above zero and at least `min_gain` (in units of the metric).

    Raises ValueError if the two were not measured with one metric on the same rows.
    """
    if not 0 <= min_gain < math.inf:
        raise ValueError(f"min_gain must be at least 0 and finite, got {min_gain}")
    gain = None if champion is None else _gain(challenger, champion)
    promote, reason = _judge(challenger, champion, gain, min_gain)
    return Verdict(
        promote=promote,
        reason=reason,
        metric=challenger.metric,
        gain=gain,
        min_gain=min_gain,
        challenger=challenger,
        champion=champion,
    )


def _gain(challenger: Evaluation, champion: Evaluation) -> float | None:
    if challenger.metric != champion.metric:
        raise ValueError(
            f"version {challenger.model_version} was measured by {challenger.metric}, "
            f"version {champion.model_version} by {champion.metric}; evaluate both with one metric"
        )
    measured_on = [(e.rows_digest, e.num_rows) for e in (challenger, champion)]
    if measured_on[0] != measured_on[1]:
        raise ValueError(
            f"versions {challenger.model_version} and {champion.model_version} were measured on different rows "
            f"({challenger.num_rows:,} with digest {challenger.rows_digest}, {champion.num_rows:,} with digest "
            f"{champion.rows_digest}); score both on one version of documents"
        )
    gain = METRICS[challenger.metric].gain(challenger.value, champion.value)
    return round(gain, DIGITS) if math.isfinite(gain) else None


def _judge(
    challenger: Evaluation, champion: Evaluation | None, gain: float | None, min_gain: float
) -> tuple[bool, str]:
    metric = challenger.metric
    if not math.isfinite(challenger.value):
        return (
            False,
            f"{metric} of version {challenger.model_version} is {challenger.value}: a diverged model is never promoted",
        )
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


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
