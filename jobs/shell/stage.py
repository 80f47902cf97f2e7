"""The course of a stage: plan; if the output is not up to date, start Spark and write it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from jobs.shell.plan import Outcome, Plan
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

    fingerprint: str
    """What the output is made from."""
    inputs: _Inputs
    """The versions that the fingerprint names; newer ones that appear meanwhile change nothing."""
    progress: Progress
    app_name: str
    conf: Mapping[str, str]

    @property
    def spark(self) -> "SparkSession":
        """The session; waits for its start. Import heavy libraries before the first use."""
        from pipelines.spark import session

        return session(self.app_name, self.conf)


def run_stage(
    stage: str,
    config: _Config,
    plan: Callable[[_Config], Plan[_Inputs]],
    write: Callable[[_Config, Work[_Inputs]], dict[str, str]],
) -> Outcome:
    """Write the output of a stage if it is not up to date; `write` returns the facts for a person."""
    configure(config.storage)
    with show_progress(stage) as progress:
        planned = plan(config)
        if planned.up_to_date:
            return Outcome(stage=stage, ran=False, why=planned.why, facts=planned.facts)
        progress.phase("starting Spark")
        from pipelines.spark import start_ahead  # only a stage with work to do loads Spark

        app_name = f"distributary {stage}"
        start_ahead(app_name, config.spark)
        work = Work(
            fingerprint=planned.fingerprint,
            inputs=planned.inputs,
            progress=progress,
            app_name=app_name,
            conf=config.spark,
        )
        facts = write(config, work)
    return Outcome(stage=stage, ran=True, why=planned.why, facts=facts)
