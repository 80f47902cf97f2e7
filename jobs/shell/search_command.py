"""`distributary search`: its options, and its two stages, search and finetune."""

from contextlib import ExitStack
from functools import partial
from inspect import cleandoc
from typing import Annotated

import typer

from jobs import finetune
from jobs.shell import settings as configuration
from jobs.shell.command import DryRun, Env, File, Overrides, Recipe, Summary, report_errors, require_master
from jobs.shell.display import display_outcome, display_plan
from jobs.shell.exits import HELP
from jobs.shell.plan import look_ahead
from jobs.shell.preflight import Preflight, probe_services
from jobs.shell.progress import show_progress
from jobs.shell.record import Record
from jobs.shell.search_stage import plan_search, read_overrides, write_search
from jobs.shell.stage import run_stage

RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Run failed trials again.")]
Train = Annotated[bool, typer.Option("--train/--no-train", help="Train with the best settings at the end.")]


def search(
    overrides: Overrides = None,
    recipe: Recipe = None,
    env: Env = None,
    file: File = None,
    dry_run: DryRun = False,
    summary: Summary = None,
    retry_failed: RetryFailed = False,
    train: Train = True,
) -> None:
    """Search the settings of a training, and train with the best ones.

    Each trial is a training of one rank, as a Spark task; trials run in parallel. They are measured on
    finetune.evaluation_split, or on folds of train (finetune.search.num_folds), never on final_split. The
    best settings are printed, kept as best.yaml, and trained by the finetune stage. A search that was killed
    continues where it stopped; no trial is trained twice.

    \b
    Examples:
      distributary search --recipe customer_service --dry-run
      distributary search --recipe customer_service finetune.search.num_trials=20
      distributary search --config mine.yaml finetune.search.method=halving
      spark-submit --master yarn jobs/shell/search_command.py --env cluster --config mine.yaml
    """
    record = Record("search", ["search", "finetune"], summary)
    with report_errors(record), ExitStack() as stack:
        load = partial(configuration.load, recipe=recipe, env=env, file=file)
        settings = load(overrides=overrides or ())
        config = settings.section("finetune", finetune.Config)
        require_master(settings)
        probe_services(settings, ["finetune"], config.storage)
        record.configure(settings)
        plan, check = (
            partial(plan_search, settings, retry_failed),
            Preflight({"finetune": config}, None, stack),
        )
        with record.stage("search"):
            if dry_run:
                with show_progress("search"):
                    planned = look_ahead(plan(config))
                record.add_plan("search", planned)
                display_plan("search", planned)
                return
            outcome = run_stage("search", config, plan, write_search, check)
        record.add_outcome(outcome, config)
        display_outcome(outcome)
        if train:
            best = load(overrides=[*(overrides or ()), *read_overrides(config, outcome.fingerprint)])
            with record.stage("finetune"):
                outcome = finetune.main(best.section("finetune", finetune.Config), check)
            record.add_outcome(outcome, config)
            display_outcome(outcome)


search.__doc__ = f"{cleandoc(search.__doc__ or '')}\n\n{HELP}"

if __name__ == "__main__":
    typer.run(search)
