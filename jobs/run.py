"""Run all five stages; skip those that are up to date.

The order is corpus, dataset, finetune, registry, scoring. A stage whose output is up to date does nothing
and says why. If the run is killed, start it again: it continues where it stopped. Only one run uses a root
at a time; a second one ends with status 75.
"""

from collections.abc import Mapping
from types import ModuleType

import typer

from jobs import corpus, dataset, finetune, registry, scoring
from jobs.shell import settings as configuration
from jobs.shell.command import (
    DryRun,
    Env,
    File,
    Overrides,
    Recipe,
    Summary,
    format_help,
    report_errors,
    require_master,
)
from jobs.shell.course import display_plans, run_stages
from jobs.shell.preflight import probe_services
from jobs.shell.record import Record

STAGES: Mapping[str, ModuleType] = {
    "corpus": corpus,
    "dataset": dataset,
    "finetune": finetune,
    "registry": registry,
    "scoring": scoring,
}


def run(
    overrides: Overrides = None,
    recipe: Recipe = None,
    env: Env = None,
    file: File = None,
    dry_run: DryRun = False,
    summary: Summary = None,
) -> None:
    record = Record("run", list(STAGES), summary)
    with report_errors(record):
        settings = configuration.load(recipe=recipe, env=env, file=file, overrides=overrides or ())
        configs = settings.sections({name: stage.Config for name, stage in STAGES.items()})
        require_master(settings)
        probe_services(settings, STAGES, configs["corpus"].storage)
        record.configure(settings)
        if dry_run:
            display_plans(STAGES, configs, record)
        else:
            run_stages(STAGES, configs, settings, record)


run.__doc__ = format_help(__doc__, "run")

if __name__ == "__main__":
    typer.run(run)
