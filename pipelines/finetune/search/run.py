"""The course of a search at the driver: round after round, its trials in parallel, one Spark job each.

A trial is launched as every training is, with one rank. So it has Spark's retries, a GPU where ranks have
one, and its own error; a trial that fails ends no other one. The trials of a round wait in a queue for
slots.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING

from pipelines.connect import is_connect
from pipelines.finetune.driver import Listeners, run_training
from pipelines.finetune.launch.barrier import RankError, RanksLostError
from pipelines.finetune.launch.slots import is_one_process, num_slots
from pipelines.finetune.search.score import Candidate, Rounds, Score
from pipelines.finetune.search.trial import Trial, delete_large, list_different, read_failure, write_failure

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5

Record = Callable[[Trial], AbstractContextManager[Listeners | None]]
"""The record of a trial while it runs, which an error makes failed; None if all of it was recorded before."""
Launch = Callable[[Trial, Listeners], None]


class SearchStoppedError(BaseException):
    """The search ends while the trial runs. No Exception: its record shows it as killed, not as failed."""


def run_rounds(rounds: Rounds, run: Callable[[list[Candidate]], list[Score]]) -> list[Score]:
    """The scores of all rounds, in the order of proposal. `run` returns those of one round."""
    scores: list[Score] = []
    try:
        candidates = next(rounds)
        while True:
            found = run(candidates) if candidates else []
            scores += found
            candidates = rounds.send(found)
    except StopIteration:
        return scores


def count_parallel(spark: "SparkSession", max_parallel: int | None, gpus_per_rank: float) -> int:
    """Trials at once: max_parallel, else one for each slot. A local master gives no GPU to a task, so all
    trials would take the first one: there it is one at a time.

    Raises ValueError over Spark Connect without a number, because it tells no slots.
    """
    if max_parallel is not None:
        return max_parallel
    if is_connect(spark):
        raise ValueError(
            "finetune.search.max_parallel is null, and Spark Connect does not tell how many slots there are; "
            "set it to the number of trials that run at once"
        )
    slots = max(1, num_slots(spark, gpus_per_rank))
    if slots > 1 and is_one_process(spark) and _has_gpu():
        logger.warning(
            "trials run one at a time, because %s lets all take the first GPU; if it has memory for several, "
            "set finetune.search.max_parallel",
            spark.conf.get("spark.master"),
        )
        return 1
    return slots


def _has_gpu() -> bool:
    """Whether torch sees a GPU on this machine."""
    import torch  # takes seconds; with a local master the ranks need it here anyway

    return torch.cuda.device_count() > 0


def launch_on(spark: "SparkSession") -> Launch:
    """Trains a trial as one Spark task."""
    return lambda trial, listeners: run_training(spark, trial.training, listeners, num_ranks=1)


def run_trials(
    trials: Sequence[Trial],
    launch: Launch,
    record: Record,
    *,
    parallel: int,
    hide: Callable[[str], str] = str,
    ended: Callable[[Trial, str | None], None] = lambda trial, error: None,
) -> dict[str, str]:
    """Run the trials that have no end yet, `parallel` at once, in their order. The errors by trial id of
    those that may go well another time: ranks that Spark lost. Other failures are kept with the trial,
    without secrets, as `hide` returns them. Trials with one id are run once: they write to one folder.

    `ended` hears of each trial when it has ended, and of its error if it was lost. Any other error, such as a
    lost lease, and one of `ended` stops all trials and is raised.
    """
    stop = threading.Event()
    lost: dict[str, str] = {}

    def run(trial: Trial) -> None:
        if stop.is_set():
            raise SearchStoppedError
        try:
            try:
                _run_trial(trial, launch, record, stop)
            except RanksLostError as error:
                lost[trial.id] = hide(str(error))
            except RankError as error:
                write_failure(trial, hide(str(error)))
            if trial.id not in lost:
                # Here, and not where it is recorded: a driver may have died after the record.
                delete_large(trial)
            ended(trial, lost.get(trial.id))
        except BaseException:
            stop.set()  # here, before this thread takes the next trial
            raise

    with ThreadPoolExecutor(parallel, thread_name_prefix="trial") as pool:
        try:
            _wait([pool.submit(run, trial) for trial in list_different(trials)])
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return lost


def _run_trial(trial: Trial, launch: Launch, record: Record, stop: threading.Event) -> None:
    def require_going_on() -> None:
        if stop.is_set():
            raise SearchStoppedError
        heard.require_lease()

    with record(trial) as heard_or_none:
        if heard_or_none is None:
            return
        heard = heard_or_none
        error = read_failure(trial)
        if error is not None:  # of another search, or of one whose driver died before it recorded it
            raise RankError(error)
        launch(trial, replace(heard, require_lease=require_going_on))


def _wait(futures: Iterable[Future[None]]) -> None:
    """Until all are done; raises the first error that is not only the end of the others. The main thread
    wakes up for signals meanwhile."""
    pending = set(futures)
    while pending:
        done, pending = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
        for error in [future.exception() for future in done]:
            if error is not None and not isinstance(error, SearchStoppedError):
                raise error
