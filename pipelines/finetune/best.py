"""What an evaluation means for a training: whether it is the best so far, and whether it is time to stop.

Two questions, because of `min_gain`: the best checkpoint is the best one by however little; a training goes
on only while it gains more than `min_gain` over the last evaluation that did. Both answers are in the state
of the checkpoint, so a resumed training gives the same ones. A metric that counts decisions stands still
while the model still learns: it may name another one that decides between equal values.
"""

import math
from dataclasses import replace

from pipelines.finetune.checkpoint.format import TrainState
from pipelines.finetune.training import Cadence
from pipelines.metrics import METRICS, Metric


def judge_evaluation(
    state: TrainState, value: float, metric: Metric, cadence: Cadence, tie: float | None = None
) -> TrainState:
    """`state` after an evaluation at its step gave `value`. A value that is not finite is the best only if it
    is the first one, or if the best so far is not finite either.

    A tie is no gain, unless `tie`, the value of `metric.ties_by`, is better by however little.
    """
    best, last = state.best_value, state.last_gain_value
    is_finite = math.isfinite(value)
    is_best = (
        state.best_step < 0
        or not math.isfinite(best)
        or (is_finite and metric.gain(value, best) > 0)
        or (value == best and _wins_tie(metric, tie, state.best_tie))
    )
    is_gain = is_finite and (
        last is None
        or metric.gain(value, last) > cadence.stop_min_gain
        or (value == last and _wins_tie(metric, tie, state.last_gain_tie))
    )
    return replace(
        state,
        best_step=state.step if is_best else state.best_step,
        best_value=value if is_best else best,
        best_tie=tie if is_best else state.best_tie,
        last_gain_value=value if is_gain else last,
        last_gain_tie=tie if is_gain else state.last_gain_tie,
        num_without_gain=0 if is_gain else state.num_without_gain + 1,
    )


def _wins_tie(metric: Metric, tie: float | None, before: float | None) -> bool:
    if metric.ties_by is None or tie is None or before is None:
        return False
    return METRICS[metric.ties_by].gain(tie, before) > 0


def is_over(state: TrainState, cadence: Cadence) -> bool:
    """Whether the last evaluations brought no gain, as many as `cadence` waits for."""
    limit = cadence.stop_after_evaluations
    return limit is not None and state.num_without_gain >= limit
