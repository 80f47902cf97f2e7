"""How an attempt of a training ended, from the summary that its command wrote: what the queue does next."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pipelines.finetune.queue.state import FAULTS, WAITS_AGAIN, QueuedTraining

OUTCOMES = {0: "done", 75: "retry", 79: "preempted", 130: "stopped", 143: "stopped"}
"""Exit status of `distributary finetune` -> outcome; every other status is a failure that a person must look
at."""
MAX_WHY = 500
"""Characters of an error that the table keeps; the log of the attempt has all."""


class Ending(NamedTuple):
    outcome: str
    """done, failed, cancelled, or a key of WAITS_AGAIN."""
    why: str
    worked: bool = True
    """False = done at once, because the training was up to date."""


def judge_ending(
    training: QueuedTraining,
    summary: Mapping[str, Any] | None,
    max_faults: int,
    *,
    status: int | None = None,
    fault: str = "",
) -> Ending:
    """`summary`: of a process that has ended, as `--summary` describes it, {} if it wrote none; None = the
    process did not begin, and `status` is its exit status if this scheduler started it (a negative one is a
    signal), `fault` why it could not."""
    if summary is None:
        ending = _judge_unborn(status, fault)
    elif summary.get("exit_code") is None:
        ending = Ending("lost", WAITS_AGAIN["lost"])
    else:
        ending = _judge_summary(summary)
    if training.is_cancelled and ending.outcome != "done":
        return Ending("cancelled", "cancelled while it ran")
    if ending.outcome in FAULTS:
        num_faults = 1 + sum(each.outcome in FAULTS for each in training.attempts)
        if num_faults >= max_faults:
            return Ending("failed", f"{ending.why}; attempt {num_faults} of {max_faults} that ended so")
    return ending


def _judge_unborn(status: int | None, fault: str) -> Ending:
    if fault:
        return Ending("retry", f"its process could not be started: {fault}"[:MAX_WHY])
    if not status:
        return Ending("unborn", WAITS_AGAIN["unborn"])
    outcome = "lost" if status < 0 else OUTCOMES.get(status, "failed")
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    return Ending(outcome, f"its process {how} before it began; its log says why")


def _judge_summary(summary: Mapping[str, Any]) -> Ending:
    status, error = int(summary["exit_code"]), summary.get("error") or {}
    outcome = OUTCOMES.get(status, "failed")
    if outcome == "retry" and error.get("kind") == "busy":
        outcome = "busy"
    if outcome == "done":
        last = (summary.get("stages") or [{}])[-1]
        return Ending("done", str(last.get("why", "")), worked=last.get("state") != "up to date")
    message = str(error.get("message", "")).strip()
    if outcome in WAITS_AGAIN and outcome not in FAULTS:
        return Ending(outcome, WAITS_AGAIN[outcome])
    return Ending(outcome, f"exit status {status}: {message}"[:MAX_WHY])
