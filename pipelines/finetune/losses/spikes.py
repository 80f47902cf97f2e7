"""Which steps of a training have a loss that jumped. NumPy only.

A step is a spike if its loss is above the running median, that of the MEDIAN_POINTS points before it, by more
than K deviations. A deviation is the standard deviation of the noise, estimated from the differences between
neighbours among the NOISE_POINTS points before: 1.4826 times their median distance from their median, over
the square root of 2. Medians, because earlier spikes must not hide this one (Hampel 1974, The influence curve
and its role in robust estimation); differences, because while a loss falls, it is far from its own median
without any noise (von Neumann et al. 1941, The mean square successive difference); points before, because a
jump may last. A loss that is not finite always is a spike, the first one too. O(points * NOISE_POINTS).
"""

from typing import NamedTuple

import numpy as np

MEDIAN_POINTS, NOISE_POINTS, MIN_POINTS = 15, 50, 10
"""MIN_POINTS: differences by which a finite loss is judged, at least."""
NORMAL = 1.4826
"""Standard deviation of normal noise over its median distance from the median."""
MIN_DEVIATION_FRACTION = 1e-3
"""Of the median: the least deviation, so that a loss that stands still has no spikes of rounding."""
MIN_DEVIATION = 1e-6
"""Nats: the least deviation of a loss that stands at 0. Logits of 10 in float32 are rounded by as much."""
CHUNK = 10_000
"""Steps that are judged at once: 4 MB for the points before each."""


class Spike(NamedTuple):
    step: int
    loss: float
    median: float
    """Running median. Not a number after fewer than MIN_POINTS differences, as are the next two."""
    deviation: float
    """Robust standard deviation of the noise; above 0."""
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
    spikes = list[Spike]()
    for first in range(0, len(steps), CHUNK):
        part = slice(first, first + CHUNK)
        has_noise = np.isfinite(changes[part]).sum(1) >= MIN_POINTS  # (num_part,)
        judged = np.flatnonzero(has_noise & np.isfinite(before[part]).any(1))
        medians, scales = np.full((2, len(has_noise)), np.nan)
        medians[judged] = np.nanmedian(before[part][judged], axis=1)
        scales[judged] = _measure_noise(changes[part][judged])
        scales = np.maximum(scales, np.maximum(MIN_DEVIATION_FRACTION * np.abs(medians), MIN_DEVIATION))
        thresholds = medians + deviations * scales
        is_spike = (losses[part] > thresholds) | ~np.isfinite(losses[part])
        columns = (steps[part], losses[part], medians, scales, thresholds)
        spikes += [Spike(*row) for row in zip(*(each[is_spike].tolist() for each in columns), strict=True)]
    return sorted(spikes, key=lambda spike: (-spike.excess, spike.step))


def _list_before(values: np.ndarray, num_points: int) -> np.ndarray:
    """(num_values, num_points) view: the points before each; not a number where there are none."""
    padded = np.concatenate([np.full(num_points, np.nan), values])
    return np.lib.stride_tricks.sliding_window_view(padded, num_points)[:-1]


def _measure_noise(changes: np.ndarray) -> np.ndarray:
    """(num_steps,) standard deviation of a point, from (num_steps, NOISE_POINTS) differences of two."""
    centres = np.nanmedian(changes, axis=1, keepdims=True)
    return NORMAL * np.nanmedian(np.abs(changes - centres), axis=1) / 2**0.5
