"""`distributary queue run` and `queue list`: the scheduler with its progress, and the picture."""

import math
import time
from collections.abc import Mapping

from jobs.shell.display import console
from jobs.shell.exits import Exit, find_exit
from jobs.shell.progress import Progress, show_progress
from jobs.shell.queue_launch import Launcher
from jobs.shell.queue_settings import QueueConfig
from jobs.shell.queue_show import describe_events, describe_needs, describe_state, show_list
from pipelines.finetune.queue.policies import POLICIES
from pipelines.finetune.queue.resources import Amount
from pipelines.finetune.queue.scheduler import Scheduler
from pipelines.finetune.queue.state import Event, QueueState
from pipelines.finetune.queue.table import QueueTable
from pipelines.lease import Lease, LeaseLostError
from pipelines.storage import Folder

LEASES = "_scheduler"
"""Folder in that of the table: VACUUM leaves names with an underscore alone."""


def run_queue(config: QueueConfig, *, until_empty: bool, picture: str | None) -> bool:
    """Schedule until the queue is empty, or for ever; whether no training of the queue has failed.

    Raises LeaseHeldError if another scheduler lives, LeaseLostError if one took over, ValueError if what
    still waits fits into no group.
    """
    table, amounts = QueueTable(config.table), config.amounts()
    with show_progress("queue") as progress:

        def note(state: QueueState, events: list[Event]) -> None:
            for line in describe_events(state, events, config.table):
                progress.print(line)

        with Lease(Folder(config.table) / LEASES) as lease:
            scheduler = Scheduler(
                table=table,
                policy_name=config.policy,
                policy=POLICIES[config.policy],
                resources=amounts,
                launch=Launcher(config.table, config.groups()),
                max_faults=config.max_faults,
                note=note,
            )
            scheduler.take_over()
            groups = "; ".join(f"{name}: {describe_needs(whole)}" for name, whole in amounts.items())
            progress.phase(f"{config.policy} on {groups}")
            progress.phase("looking at the queue")
            while True:
                lease.require()
                state = _look(scheduler, progress)
                if until_empty and state is not None and _is_over(state, amounts):
                    break
                time.sleep(config.poll_seconds)
    show_list(state, config.table, as_json=False)
    _draw(state, config, picture)
    return not state.having("failed")


def _look(scheduler: Scheduler, progress: Progress) -> QueueState | None:
    """One round; None if storage does not answer now. For how long that may last, the lease says."""
    try:
        state = scheduler.look()
    except LeaseLostError:
        raise
    except Exception as error:  # of any store
        if find_exit(error, configuring=False) is not Exit.RETRY:
            raise
        progress.update(f"the queue cannot be read or written now ({error}); trying again")
        return None
    progress.update(describe_state(state))
    return state


def _is_over(state: QueueState, amounts: Mapping[str, Amount]) -> bool:
    """Whether nothing waits or runs. Raises ValueError if all that is left waits for ever."""
    if state.having("running"):
        return False
    stuck = [each for each in state.list_waiting(math.inf) if not each.list_groups(amounts)]
    if stuck and len(stuck) == len(state.having("waiting")):
        first = stuck[0]
        reason = f"needs {describe_needs(first.needs)}, and no group of queue.resources is so large"
        if first.group is not None and first.group not in amounts:
            reason = f"must run in group {first.group}, and queue.resources has only: {', '.join(amounts)}"
        raise ValueError(
            f"training {first.id} {reason}; {len(stuck)} trainings wait for ever: correct queue.resources or "
            "cancel them"
        )
    return not state.having("waiting")


def show_queue(config: QueueConfig, *, as_json: bool, picture: str | None) -> None:
    """List the trainings. A queue that does not exist has none."""
    table = QueueTable(config.table)
    state = table.read().state if table.exists() else QueueState()
    show_list(state, config.table, as_json=as_json)
    _draw(state, config, picture)


def _draw(state: QueueState, config: QueueConfig, picture: str | None) -> None:
    if picture is None:
        return
    from pipelines.finetune.queue.timeline import list_bars
    from pipelines.queue_charts import draw_timeline

    sizes = {name: whole.slots for name, whole in config.amounts().items()}
    bars = list_bars(state, time.time())
    if not bars:
        raise ValueError(
            f"nothing has started in {config.table}, so there is nothing to draw; leave out --picture"
        )
    draw_timeline(bars, sizes, title=f"Trainings of {config.table}").savefig(picture)
    console.print(f"picture: {picture}", markup=False)
