"""The spikes of a run's loss, and the sequences and documents that made them. Starts neither Spark nor torch.

With `finetune.sequence_losses` the losses of all steps and of their sequences are known. The excess of a
sequence is its loss less what as many targets would have at the running median; the excess of all sequences
of a step is that of the step. Without it, spikes are looked for among the points that the run logged, and all
sequences of their steps are listed.
"""

import numpy as np

from pipelines.finetune.losses.read import SequenceLosses
from pipelines.finetune.losses.spikes import MEDIAN_POINTS, NOISE_POINTS, Spike, find_spikes
from pipelines.registry.runs.trace import Answer, RunTrace

MAX_SPIKES, MAX_SEQUENCES = 5, 5
"""Highest spikes that are explained, and sequences of each that are listed if their losses are known."""


def trace_spikes(
    trace: RunTrace, losses: SequenceLosses | None, logged: dict[int, float], *, deviations: float
) -> Answer:
    """The highest spikes, each with the sequences that have the largest excess.

    `logged`: step -> loss of the points of the run, which count if `losses` is null. A number that is not
    finite is null in the answer. Raises ValueError for `deviations` that are not above 0.
    """
    if not deviations > 0:
        raise ValueError(f"deviations must be above 0, got {deviations:g}")
    if losses is not None:
        steps, values = losses.read_steps()
    else:
        steps = np.array(sorted(logged), dtype=np.int64)
        values = np.array([logged[step] for step in steps.tolist()])
    spikes = find_spikes(steps, values, deviations=deviations)
    return {
        **trace.describe_run(),
        "rule": {"deviations": deviations, "median_points": MEDIAN_POINTS, "noise_points": NOISE_POINTS},
        "num_points": len(steps),
        "first_step": int(steps[0]) if len(steps) else 0,
        "last_step": int(steps[-1]) if len(steps) else 0,
        "has_sequence_losses": losses is not None,
        "num_spikes": len(spikes),
        "spikes": [_explain(trace, losses, spike) for spike in spikes[:MAX_SPIKES]],
    }


def _explain(trace: RunTrace, losses: SequenceLosses | None, spike: Spike) -> Answer:
    numbers = {name: _keep_finite(value) for name, value in spike._asdict().items() if name != "step"}
    about = {"step": spike.step, **numbers, "excess": _keep_finite(spike.excess)}
    if losses is None:
        found = trace.trace_step(spike.step)
        return {**about, "in_model": found["in_model"], "sequences": found["sequences"]}
    rows = losses.read_step(spike.step)
    excess = rows.losses - rows.num_targets * spike.median  # (num_rows,) nats; no numbers without a median
    total = float(excess.sum())
    heights = rows.losses if np.isnan(spike.median) else excess
    # What is no number stands first: it made the loss of the step none.
    order = np.argsort(-np.where(np.isnan(heights), np.inf, heights), kind="stable")[:MAX_SEQUENCES]
    chosen = rows.sequence_ids[order].tolist()
    found = trace.trace_step(spike.step, sequence_ids=chosen)
    # One may be in a batch twice, at the end of an epoch and the start of the next, with the same documents.
    described = {each["sequence_id"]: each for each in found["sequences"]}
    listed = []
    for at, sequence_id in zip(order.tolist(), chosen, strict=True):
        measured = {
            "epoch": int(rows.epochs[at]),
            "rank": int(rows.ranks[at]),
            "loss_sum": _keep_finite(rows.losses[at]),
            "num_targets": int(rows.num_targets[at]),
            "excess": _keep_finite(excess[at]),
            "excess_fraction": _keep_finite(excess[at] / total) if np.isfinite(total) else None,
        }
        listed.append({**described[sequence_id], **measured})
    return {**about, "in_model": found["in_model"], "sequences": listed}


def _keep_finite(number: float) -> float | None:
    """JSON has no other numbers."""
    return float(number) if np.isfinite(number) else None
