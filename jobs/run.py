"""Run all five stages; skip those that are up to date.

The order is corpus, dataset, finetune, registry, scoring. A stage whose output is up to date does nothing
and says why. If the run is killed, start it again: it continues where it stopped.
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
    format_help,
    report_errors,
    require_master,
    require_storage,
)
from jobs.shell.display import console, display_locations, display_outcome, display_plan, display_summary
from jobs.shell.progress import show_progress
from jobs.shell.settings import Section

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
) -> None:
    with report_errors():
        settings = configuration.load(recipe=recipe, env=env, file=file, overrides=overrides or ())
        configs = settings.sections({name: stage.Config for name, stage in STAGES.items()})
        require_master(settings)
        require_storage(settings, configs["corpus"])
        if dry_run:
            display_plans(configs)
            return
        outcomes = []
        for name, stage in STAGES.items():
            outcomes.append(stage.main(configs[name]))
            display_outcome(outcomes[-1])
        display_summary(outcomes)
        display_locations(settings)


def display_plans(configs: Mapping[str, Section]) -> None:
    """What each stage would do. Below the first stage that would run, nothing can be known yet."""
    for number, (name, stage) in enumerate(STAGES.items()):
        with show_progress(name):
            planned = stage.plan(configs[name])
        display_plan(name, planned)
        if not planned.up_to_date:
            for below in list(STAGES)[number + 1 :]:
                console.print(f"{below}: would run: its input will be written again", markup=False)
            return


run.__doc__ = format_help(__doc__, "run")

if __name__ == "__main__":
    typer.run(run)
