"""The command line of one job: its options, its help, and errors as one message."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from inspect import cleandoc
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

from jobs.shell import settings as configuration
from jobs.shell.corpus_report import CorpusReport, show_report
from jobs.shell.display import display_outcome, display_plan
from jobs.shell.exits import HELP, Exit, find_exit, stop_on_sigterm
from jobs.shell.layers import list_overlays
from jobs.shell.plan import Outcome, Plan, look_ahead
from jobs.shell.preflight import Preflight, probe_services
from jobs.shell.progress import show_progress
from jobs.shell.record import Record
from jobs.shell.redaction import redact
from jobs.shell.sequences_report import SequencesReport
from jobs.shell.sequences_report import show_report as show_sequences_report
from jobs.shell.settings import Section, Settings
from jobs.shell.stage import Check
from jobs.shell.stream import Stream, follow
from jobs.shell.what_if import WhatIf, show_what_if

_Config = TypeVar("_Config", bound=Section)

Main = Callable[[_Config, Check], Outcome]
"""A stage: writes its output if it is not up to date, after the check."""

EXAMPLE_KEYS = {
    "run": "finetune.num_epochs=1 spark.driver.memory=4g",
    "corpus": "corpus.rules.min_chars=20",
    "dataset": "dataset.packing.sequence_length=128",
    "finetune": "finetune.num_epochs=3 finetune.num_ranks=1",
    "registry": "registry.min_gain=0.005",
    "scoring": "scoring.split=all scoring.alias=3",
}
"""Keys that people often set, for the examples of the help."""

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Keys to change, such as finetune.num_epochs=3. conf/base.yaml explains every key.",
    ),
]
Recipe = Annotated[
    str | None, typer.Option(metavar="NAME", help=f"What is learned: {', '.join(list_overlays('recipe'))}.")
]
Env = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help=f"Where it runs: {', '.join(list_overlays('env'))}. Default: this machine."
    ),
]
File = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="Your own YAML file, applied after recipe and env.",
    ),
]
Summary = Annotated[
    str | None,
    typer.Option("--summary", metavar="FILE", help="Write one JSON object: stages, table versions, errors."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would run and why; change nothing.")]


def build_command(
    stage: str, model: type[_Config], main: Main[_Config], plan: Callable[[_Config], Plan[Any]]
) -> Callable[..., None]:
    """The command line of one job; the docstring of the job's module is its help."""

    def start(
        overrides: Overrides,
        recipe: Recipe,
        env: Env,
        file: File,
        dry_run: DryRun,
        summary: Summary,
        *,
        stream: bool,
    ) -> None:
        record = Record(stage, [stage], summary)
        with report_errors(record), ExitStack() as stack:
            settings = configuration.load(recipe=recipe, env=env, file=file, overrides=overrides or ())
            config = settings.section(stage, model)
            require_master(settings)
            probe_services(settings, [stage], config.storage)
            record.configure(settings)
            with record.stage(stage):
                if dry_run:
                    with show_progress(stage):
                        planned = look_ahead(plan(config))
                    record.add_plan(stage, planned)
                    display_plan(stage, planned)
                    return
                check = Preflight({stage: config}, None, stack)

                def note(outcome: Outcome) -> None:
                    record.add_outcome(outcome, config)
                    display_outcome(outcome)

                if stream:
                    seconds = float(settings.tree[stage]["stream_interval_seconds"])
                    follow(partial(main, config, check), seconds, note)
                note(main(config, check))

    def run(
        overrides: Overrides = None,
        recipe: Recipe = None,
        env: Env = None,
        file: File = None,
        dry_run: DryRun = False,
        summary: Summary = None,
    ) -> None:
        start(overrides, recipe, env, file, dry_run, summary, stream=False)

    def run_or_compare(
        overrides: Overrides = None,
        recipe: Recipe = None,
        env: Env = None,
        file: File = None,
        dry_run: DryRun = False,
        summary: Summary = None,
        what_if: WhatIf = None,
        report: CorpusReport = None,
        stream: Stream = False,
    ) -> None:
        if not what_if and not report:
            start(overrides, recipe, env, file, dry_run, summary, stream=stream)
            return
        with report_errors():
            settings = configuration.load(recipe=recipe, env=env, file=file, overrides=overrides or ())
            config = settings.section(stage, model)
            require_master(settings)
            if what_if:
                show_what_if(config, what_if)
            if report:
                show_report(config, settings, report)

    def run_or_report(
        overrides: Overrides = None,
        recipe: Recipe = None,
        env: Env = None,
        file: File = None,
        dry_run: DryRun = False,
        summary: Summary = None,
        report: SequencesReport = None,
    ) -> None:
        if not report:
            start(overrides, recipe, env, file, dry_run, summary, stream=False)
            return
        with report_errors():
            settings = configuration.load(recipe=recipe, env=env, file=file, overrides=overrides or ())
            config = settings.section(stage, model)
            require_master(settings)
            show_sequences_report(config, report)

    commands: dict[str, Callable[..., None]] = {"corpus": run_or_compare, "dataset": run_or_report}
    command = commands.get(stage, run)
    command.__doc__ = format_help(sys.modules[main.__module__].__doc__, stage)
    return command


def run_command(
    stage: str, model: type[_Config], main: Main[_Config], plan: Callable[[_Config], Plan[Any]]
) -> None:
    """Run one job from the command line of the process, as `python -m jobs.STAGE` and spark-submit do."""
    typer.run(build_command(stage, model, main, plan))


def format_help(docstring: str | None, name: str) -> str:
    """The docstring of a job's module as the help of its command, with examples."""
    examples = (
        f"distributary {name} --recipe customer_service",
        f"distributary {name} --recipe customer_service --dry-run",
        f"distributary {name} --config mine.yaml {EXAMPLE_KEYS[name]}",
        f"spark-submit --master yarn jobs/{name}.py --env cluster --config mine.yaml",
    )
    # Click joins the lines of a paragraph unless a backspace character stands before them.
    listed = "\n  ".join([f"{cleandoc(docstring or '')}\n\n\b\nExamples:", *examples])
    return f"{listed}\n\n{HELP}"


def require_master(settings: Settings) -> None:
    """Raise ValueError if --env leaves the master to spark-submit and no one names a master.

    Without this check, `run --env cluster` would work on the driver's machine alone and say nothing.
    """
    given = settings.tree["spark"]
    if not (given.get("spark.master") or given.get("spark.remote")):
        from pipelines.spark import require_master as require

        require()


class _RedactingFormatter(logging.Formatter):
    """Log messages without secrets: libraries repeat addresses in their warnings."""

    def format(self, record: logging.LogRecord) -> str:
        return str(redact(super().format(record)))


@contextmanager
def report_errors(record: Record | None = None) -> Iterator[None]:
    """Print an error as one message and exit with its status (`exits.Exit`), which `record` keeps.

    DISTRIBUTARY_DEBUG=1 shows the traceback instead.
    """
    record = record or Record("", [])
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_RedactingFormatter("  %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    try:
        with stop_on_sigterm():
            yield
    except KeyboardInterrupt as error:
        status = find_exit(error, configuring=False)
        record.end(status, error, "stopped from outside; run the same command again to continue")
        print(f"interrupted ({status.name.lower()}); run the same command again to continue", file=sys.stderr)
        raise typer.Exit(status) from None
    except Exception as error:
        status = find_exit(error, configuring=not record.is_configured)
        record.end(status, error, explain_error(error))
        if os.environ.get("DISTRIBUTARY_DEBUG"):
            raise
        Console(stderr=True).print("[bold red]error[/bold red] ", end="")
        print(redact(f"{type(error).__name__}: {explain_error(error)}"), file=sys.stderr)
        print(f"(exit status {status}; DISTRIBUTARY_DEBUG=1 shows the traceback)", file=sys.stderr)
        raise typer.Exit(status) from None
    else:
        record.end(Exit.DONE)


def explain_error(error: Exception) -> str:
    """What happened: our own errors whole; of a page from the JVM or MLflow, the line that says it."""
    text = str(error).strip()
    if isinstance(error, (ValueError, LookupError, OSError, RuntimeError)):
        return text
    # An executor's Python traceback: the message is the first line after the frames, which are indented.
    frames = text.rpartition("Traceback (most recent call last):")
    message = (line for line in frames[2].splitlines() if line and not line[0].isspace())
    return next(message, "") if frames[1] else text.partition("\n")[0]
