"""What all jobs share: the command line, the plan (up to date or not, and why), live progress, the outcome."""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console

from jobs import config as configuration
from jobs.config import Section

console = Console(soft_wrap=True, highlight=False)
QUIET_SECONDS = 5.0
"""Off a terminal, a line at least this often while work goes on."""
_Config = TypeVar("_Config", bound=Section)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a stage would do now; made without a JVM."""

    fingerprint: str
    """What the output will have been made from."""
    up_to_date: bool
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a stage did."""

    stage: str
    ran: bool
    why: str
    facts: dict[str, str] = field(default_factory=dict)
    """For the table at the end: what a person wants to know of the stage's output."""


class Working:
    """Tells what a stage is at, with seconds, while it works: a spinner on a terminal, plain lines elsewhere."""

    def __init__(self, stage: str) -> None:
        self._stage, self._text, self._since, self._spoken = stage, "starts", time.monotonic(), 0.0
        self._spinner = console.status("") if console.is_terminal else None

    def say(self, text: str) -> None:
        """What the stage does from now on; off a terminal it is printed at once."""
        if self._spinner is None:
            self._print(text)
        self.update(text)

    def update(self, text: str) -> None:
        """How far it is; off a terminal printed when nothing was for QUIET_SECONDS."""
        self._text = text
        self.beat()

    def line(self, text: str) -> None:
        """Print a line that stays."""
        self._print(text)

    def beat(self) -> None:
        if self._spinner is not None:
            self._spinner.update(f"[bold]{self._stage}[/bold] {self._text} [dim]{time.monotonic() - self._since:.0f} s[/dim]")
        elif time.monotonic() - self._spoken > QUIET_SECONDS:
            self._print(self._text)

    def _print(self, text: str) -> None:
        console.print(f"  {self._stage:<9} {time.monotonic() - self._since:5.0f} s  {text}", markup=False)
        self._spoken = time.monotonic()


@contextmanager
def working(stage: str) -> Iterator[Working]:
    """Progress of a stage; a thread keeps it moving while the stage waits for Spark."""
    shown, done = Working(stage), threading.Event()

    def beat() -> None:
        while not done.wait(1.0):
            shown.beat()

    thread = threading.Thread(target=beat, daemon=True)
    if shown._spinner is not None:
        shown._spinner.start()
    thread.start()
    try:
        yield shown
    finally:
        done.set()
        thread.join()
        if shown._spinner is not None:
            shown._spinner.stop()


def tell(outcome: Outcome) -> None:
    """One line for the stage."""
    state = "[green]done[/green]" if outcome.ran else "[cyan]up to date[/cyan]"
    console.print(f"[bold]{outcome.stage}[/bold] {state}: ", end="")
    console.print(outcome.why + "".join(f"; {name} {value}" for name, value in outcome.facts.items()), markup=False)


def command(stage: str, model: type[_Config], main: Callable[[_Config], Outcome],
            plan: Callable[[_Config], Plan]) -> Callable[..., None]:
    """The command line of one job; its help is the job's docstring."""

    def run(overrides: Overrides = None, recipe: Recipe = None, env: Env = None, file: File = None,
            dry_run: DryRun = False) -> None:
        with faults():
            settings = configuration.load(recipe=recipe, env=env, file=file, overrides=overrides or ())
            config = settings.section(stage, model)
            if dry_run:
                tell_plan(stage, plan(config))
            else:
                tell(main(config))

    run.__doc__ = sys.modules[main.__module__].__doc__
    return run


def tell_plan(stage: str, planned: Plan) -> None:
    console.print(f"{stage}: {'up to date' if planned.up_to_date else 'would run'}: {planned.why}", markup=False)


@contextmanager
def faults() -> Iterator[None]:
    """Errors that a person can act on as one message, exit status 1; the traceback with --debug or DISTRIBUTARY_DEBUG=1."""
    logging.basicConfig(level=logging.WARNING, format="  %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        yield
    except Exception as error:
        if os.environ.get("DISTRIBUTARY_DEBUG"):
            raise
        errors = Console(stderr=True, soft_wrap=True, highlight=False)
        errors.print(f"[bold red]error[/bold red] {type(error).__name__}: ", end="")
        ours = isinstance(error, (ValueError, LookupError, OSError, RuntimeError))
        # The JVM's and MLflow's errors are pages long; their first line says what happened.
        text = configuration.redact(str(error) if ours else str(error).strip().partition("\n")[0])
        print(text, file=sys.stderr)
        print("(DISTRIBUTARY_DEBUG=1 shows the traceback)", file=sys.stderr)
        raise typer.Exit(1) from None


Overrides = Annotated[list[str] | None, typer.Argument(
    metavar="[KEY=VALUE]...", help="Keys to change, such as finetune.num_epochs=3; conf/base.yaml explains them all.")]
Recipe = Annotated[str | None, typer.Option(help=f"What is learnt: {', '.join(configuration.names('recipe'))}.")]
Env = Annotated[str | None, typer.Option(help=f"Where it runs: {', '.join(configuration.names('env'))}; default: this machine.")]
File = Annotated[Path | None, typer.Option(
    "--config", exists=True, dir_okay=False, help="A YAML file of your own keys, laid over recipe and env.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would run and why; change nothing.")]
