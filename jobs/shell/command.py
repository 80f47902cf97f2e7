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
from rich.status import Status
from rich.text import Text

from jobs.shell import settings as configuration
from jobs.shell.layers import names
from jobs.shell.loading import loading
from jobs.shell.redaction import redact
from jobs.shell.settings import Section, Settings

# Without emoji: `a:100:b` in a configuration is no picture.
console = Console(soft_wrap=True, highlight=False, emoji=False)
QUIET_SECONDS = 5.0
"""Off a terminal, a line at least this often while work goes on."""
SHARED = ("recipe", "root", "spark", "tracking")
"""Top-level keys that belong to no stage: each checks them."""
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
    """Tells what a stage is at, with seconds, while it works: a spinner on a terminal, plain lines elsewhere.

    What a stage says first is a plain line on a terminal too: it starts Spark, and a new JVM writes there as it likes.
    """

    def __init__(self, stage: str) -> None:
        self._stage, self._text, self._since, self._spoken = stage, "starts", time.monotonic(), 0.0
        self._spinner: Status | None = None
        self._said = 0

    def say(self, text: str) -> None:
        """What the stage does from now on; off a terminal it is printed at once."""
        self._said += 1
        if self._said == 2 and console.is_terminal:
            self._spinner = console.status("")
            self._spinner.start()
        if self._spinner is None:
            self._print(text)
        self.update(text)

    def stop(self) -> None:
        """Leave the terminal as it was."""
        if self._spinner is not None:
            self._spinner.stop()

    def update(self, text: str) -> None:
        """How far it is; off a terminal printed when nothing was for QUIET_SECONDS."""
        self._text = text
        self.beat()

    def line(self, text: str) -> None:
        """Print a line that stays."""
        self._print(text)

    def beat(self) -> None:
        if self._spinner is not None:
            seconds = f"{time.monotonic() - self._since:.0f} s"
            self._spinner.update(
                Text.assemble((self._stage, "bold"), f" {redact(self._text)} ", (seconds, "dim"))
            )
        elif time.monotonic() - self._spoken > QUIET_SECONDS:
            self._print(self._text)

    def _print(self, text: str) -> None:
        console.print(
            f"  {self._stage:<9} {time.monotonic() - self._since:5.0f} s  {redact(text)}", markup=False
        )
        self._spoken = time.monotonic()


@contextmanager
def working(stage: str) -> Iterator[Working]:
    """Progress of a stage; a thread keeps it moving while the stage waits for Spark."""
    shown, done = Working(stage), threading.Event()

    def beat() -> None:
        while not done.wait(1.0):
            shown.beat()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield shown
    finally:
        done.set()
        thread.join()
        shown.stop()


def tell(outcome: Outcome) -> None:
    """One line for the stage."""
    state = "[green]done[/green]" if outcome.ran else "[cyan]up to date[/cyan]"
    console.print(f"[bold]{outcome.stage}[/bold] {state}: ", end="")
    console.print(
        redact(outcome.why + "".join(f"; {name} {value}" for name, value in outcome.facts.items())),
        markup=False,
    )


def command(
    stage: str, model: type[_Config], main: Callable[[_Config], Outcome], plan: Callable[[_Config], Plan]
) -> Callable[..., None]:
    """The command line of one job; its help is the job's docstring."""

    def run(
        overrides: Overrides = None,
        recipe: Recipe = None,
        env: Env = None,
        file: File = None,
        dry_run: DryRun = False,
    ) -> None:
        with faults():
            settings = configuration.load(recipe=recipe, env=env, file=file, overrides=overrides or ())
            check_others(settings, stage)
            config = settings.section(stage, model)
            if dry_run:
                tell_plan(stage, plan(config))
            else:
                tell(main(config))

    run.__doc__ = sys.modules[main.__module__].__doc__
    return run


def check_others(settings: Settings, stage: str) -> None:
    """Raise ValueError for a fault in any section, if the user set keys of another stage than `stage`."""
    if settings.own - {stage, *SHARED}:
        # Not at the top: the stages import this module, and torch and MLflow take seconds to load.
        with loading("the other stages, to check their configuration"):
            from jobs.run import STAGES
        settings.sections({name: module.Config for name, module in STAGES.items()})


def tell_plan(stage: str, planned: Plan) -> None:
    console.print(
        f"{stage}: {'up to date' if planned.up_to_date else 'would run'}: {redact(planned.why)}", markup=False
    )


@contextmanager
def faults() -> Iterator[None]:
    """Errors that a person can act on as one message, exit status 1; the traceback with DISTRIBUTARY_DEBUG=1."""
    logging.basicConfig(
        level=logging.WARNING, format="  %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    try:
        yield
    except Exception as error:
        if os.environ.get("DISTRIBUTARY_DEBUG"):
            raise
        Console(stderr=True).print("[bold red]error[/bold red] ", end="")
        print(redact(f"{type(error).__name__}: {reason(error)}"), file=sys.stderr)
        print("(DISTRIBUTARY_DEBUG=1 shows the traceback)", file=sys.stderr)
        raise typer.Exit(1) from None


def reason(error: Exception) -> str:
    """What happened, for a person: our errors whole, of the pages of the JVM and MLflow the line that says it."""
    text = str(error).strip()
    if isinstance(error, (ValueError, LookupError, OSError, RuntimeError)):
        return text
    # An executor's Python traceback: the first line after its frames, which are indented.
    frames = text.rpartition("Traceback (most recent call last):")
    said = (line for line in frames[2].splitlines() if line and not line[0].isspace())
    return next(said, "") if frames[1] else text.partition("\n")[0]


Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Keys to change, such as finetune.num_epochs=3; conf/base.yaml explains them all.",
    ),
]
Recipe = Annotated[str | None, typer.Option(help=f"What is learnt: {', '.join(names('recipe'))}.")]
Env = Annotated[
    str | None, typer.Option(help=f"Where it runs: {', '.join(names('env'))}; default: this machine.")
]
File = Annotated[
    Path | None,
    typer.Option(
        "--config",
        exists=True,
        dir_okay=False,
        help="A YAML file of your own keys, laid over recipe and env.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would run and why; change nothing.")]
