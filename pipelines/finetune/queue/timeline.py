"""What happened in a queue, as the bars of a picture."""

from pipelines.finetune.queue.state import QueueState
from pipelines.queue_charts import Bar


def list_bars(state: QueueState, now: float) -> list[Bar]:
    """A bar for each attempt; times in seconds since the first training was added."""
    every = state.trainings.values()
    # The clocks of the machines that add and that start may differ.
    times = [each.added_at for each in every] + [a.started_at for each in every for a in each.attempts]
    start = min(times, default=0.0)
    return [
        Bar(
            name=str(each.id),
            colour=each.name,
            group=attempt.group,
            slots=each.needs.slots,
            start=attempt.started_at - start,
            end=(now if attempt.ended_at is None else attempt.ended_at) - start,
            note="" if attempt.outcome in ("", "done") else attempt.outcome,
        )
        for each in every
        for attempt in each.attempts
    ]
