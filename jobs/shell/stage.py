"""The course of a stage: plan; if the output is not up to date, start Spark and write it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from jobs.shell.plan import NO_INPUTS, Outcome, Plan
from jobs.shell.progress import Progress, show_progress
from jobs.shell.settings import Section
from pipelines.stores import configure

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_Config = TypeVar("_Config", bound=Section)
_Inputs = TypeVar("_Inputs")


@dataclass(frozen=True, kw_only=True, slots=True)
class Work(Generic[_Inputs]):
    """What a stage gets when it has to write its output."""

    progress: Progress
    stage: str
    conf: Mapping[str, str]
    fingerprint: str = ""
    """What the output is made from."""
    inputs: _Inputs = NO_INPUTS
    """The versions that the fingerprint names; newer ones that appear meanwhile change nothing."""
    needs_spark: bool = True
    """False: only a file or a record must be written. Spark is not started."""

    @property
    def spark(self) -> "SparkSession":
        """The session; waits for its start. Import heavy libraries before the first use."""
        from pipelines.spark import session

        return session(f"distributary {self.stage}", self.conf)


Check = Callable[[Work[Any]], None]
"""Raises an error if a stage must not start."""
Prepare = Callable[[_Config, Work[Any], Check], None]
"""Brings what the plan of a stage shall see. Its work has no inputs yet; the check comes before Spark."""


def prepare_nothing(config: Section, work: Work[Any], check: Check) -> None:
    """For stages whose inputs are there."""


def check_nothing(work: Work[Any]) -> None:
    """For stages that are started one by one, as in a notebook."""


def run_stage(
    stage: str,
    config: _Config,
    plan: Callable[[_Config], Plan[_Inputs]],
    write: Callable[[_Config, Work[_Inputs]], dict[str, str]],
    check: Check = check_nothing,
    prepare: Prepare[_Config] = prepare_nothing,
) -> Outcome:
    """Write the output of a stage if it is not up to date; `write` returns the facts for a person.

    `prepare` comes before the plan. `check` is called while Spark starts: what must hold before a long work
    begins.
    """
    configure(config.storage)
    with show_progress(stage) as progress:
        prepare(config, Work(stage=stage, conf=config.spark, progress=progress), check)
        planned = plan(config)
        facts = planned.facts
        if not planned.up_to_date:
            work = Work(
                fingerprint=planned.fingerprint,
                inputs=planned.inputs,
                progress=progress,
                stage=stage,
                conf=config.spark,
                needs_spark=planned.needs_spark,
            )
            if work.needs_spark:
                progress.phase("starting Spark")
                from pipelines.spark import start_ahead  # only a stage with work to do loads Spark

                start_ahead(f"distributary {stage}", config.spark)
            check(work)
            facts = write(config, work)
    return Outcome(
        stage=stage,
        ran=not planned.up_to_date,
        why=planned.why,
        facts=facts,
        fingerprint=planned.fingerprint,
        outputs=planned.outputs,
    )
