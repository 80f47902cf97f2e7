"""What happened in a queue, as the bars of a picture."""

from collections.abc import Iterable

from pipelines.finetune.queue.state import QueueState
from pipelines.queue_charts import Bar


def list_bars(state: QueueState, now: float) -> list[Bar]:
    """A bar for each attempt; times in seconds since the first training was added."""
    start = min((each.added_at for each in state.trainings.values()), default=0.0)
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
        for each in state.trainings.values()
        for attempt in each.attempts
    ]


def count_overlaps(bars: Iterable[Bar], sizes: dict[str, int]) -> int:
    """Moments at which a group has more slots in use than it has: 0, unless it became smaller."""
    num_overlaps = 0
    for group, size in sizes.items():
        changes = sorted(
            (at, change)
            for bar in bars
            if bar.group == group
            for at, change in ((bar.start, bar.slots), (bar.end, -bar.slots))
        )
        used = 0
        for _, change in changes:
            used += change
            num_overlaps += used > size
    return num_overlaps
