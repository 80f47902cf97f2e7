"""The course of a stage: plan; if the output is not up to date, start Spark and write it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from jobs.shell.plan import Outcome, Plan
from jobs.shell.progress import Progress, show_progress
from jobs.shell.settings import Section

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_Config = TypeVar("_Config", bound=Section)
_Inputs = TypeVar("_Inputs")


@dataclass(frozen=True, kw_only=True, slots=True)
class Work(Generic[_Inputs]):
    """What a stage gets when it has to write its output."""

    fingerprint: str
    """What the output is made from."""
    inputs: _Inputs
    """The versions that the fingerprint names; newer ones that appear meanwhile change nothing."""
    spark: "SparkSession"
    progress: Progress


def run_stage(
    stage: str,
    config: _Config,
    plan: Callable[[_Config], Plan[_Inputs]],
    write: Callable[[_Config, Work[_Inputs]], dict[str, str]],
) -> Outcome:
    """Write the output of a stage if it is not up to date; `write` returns the facts for a person."""
    with show_progress(stage) as progress:
        planned = plan(config)
        if planned.up_to_date:
            return Outcome(stage=stage, ran=False, why=planned.why, facts=planned.facts)
        progress.phase("starting Spark")
        from pipelines.spark import session  # only a stage with work to do loads Spark

        spark = session(f"distributary {stage}", config.spark)
        made_from, inputs = planned.fingerprint, planned.inputs
        facts = write(config, Work(fingerprint=made_from, inputs=inputs, spark=spark, progress=progress))
    return Outcome(stage=stage, ran=True, why=planned.why, facts=facts)
