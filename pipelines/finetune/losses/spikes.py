"""Which steps of a training have a loss that jumped. NumPy only.

A step is a spike if its loss is above the running median, that of the MEDIAN_POINTS points before it, by more
than K deviations. A deviation is the standard deviation of the noise, estimated from the differences between
neighbours among the NOISE_POINTS points before: 1.4826 times their median distance from their median, over
the square root of 2. Medians, because earlier spikes must not hide this one (Hampel 1974, The influence curve
and its role in robust estimation); differences, because while a loss falls, it is far from its own median
without any noise (von Neumann et al. 1941, The mean square successive difference); points before, because a
jump may last. A loss that is not finite always is a spike. O(points * NOISE_POINTS).
"""

from typing import NamedTuple

import numpy as np

MEDIAN_POINTS, NOISE_POINTS, MIN_POINTS = 15, 50, 10
"""MIN_POINTS: differences by which a step is judged, at least."""
NORMAL = 1.4826
"""Standard deviation of normal noise over its median distance from the median."""
MIN_DEVIATION_FRACTION = 1e-3
"""Of the median: the least deviation, so that a loss that stands still has no spikes of rounding."""
CHUNK = 10_000
"""Steps that are judged at once: 4 MB for the points before each."""


class Spike(NamedTuple):
    step: int
    loss: float
    median: float
    """Running median."""
    deviation: float
    """Robust standard deviation of the noise."""
    threshold: float
    """The largest loss that would be no spike."""

    @property
    def excess(self) -> float:
        """Deviations above the median; infinite for a loss that is not finite."""
        return (self.loss - self.median) / self.deviation if np.isfinite(self.loss) else float("inf")


def find_spikes(steps: np.ndarray, losses: np.ndarray, *, deviations: float) -> list[Spike]:
    """The spikes among points in the order of their steps, (num_points,) each; the highest first, equal ones
    in the order of the steps."""
    known = np.where(np.isfinite(losses), losses, np.nan)
    before = _list_before(known, MEDIAN_POINTS)  # (num_points, MEDIAN_POINTS)
    changes = _list_before(np.diff(known, prepend=np.nan), NOISE_POINTS)  # (num_points, NOISE_POINTS)
    spikes = []
    for first in range(0, len(steps), CHUNK):
        part = slice(first, first + CHUNK)
        is_judged = np.isfinite(changes[part]).sum(1) >= MIN_POINTS
        judged = np.flatnonzero(is_judged & np.isfinite(before[part]).any(1)) + first
        medians = np.nanmedian(before[judged], axis=1)  # (num_judged,)
        scales = np.maximum(_measure_noise(changes[judged]), MIN_DEVIATION_FRACTION * np.abs(medians))
        for at, median, scale in zip(judged.tolist(), medians.tolist(), scales.tolist(), strict=True):
            threshold = median + deviations * scale
            if not losses[at] <= threshold:  # also if it is no number
                spikes.append(Spike(int(steps[at]), float(losses[at]), median, scale, threshold))
    return sorted(spikes, key=lambda spike: (-spike.excess, spike.step))


def _list_before(values: np.ndarray, num_points: int) -> np.ndarray:
    """(num_values, num_points) view: the points before each; not a number where there are none."""
    padded = np.concatenate([np.full(num_points, np.nan), values])
    return np.lib.stride_tricks.sliding_window_view(padded, num_points)[:-1]


def _measure_noise(changes: np.ndarray) -> np.ndarray:
    """(num_steps,) standard deviation of a point, from (num_steps, NOISE_POINTS) differences of two."""
    centres = np.nanmedian(changes, axis=1, keepdims=True)
    return NORMAL * np.nanmedian(np.abs(changes - centres), axis=1) / 2**0.5
