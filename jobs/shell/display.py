"""What the commands print: plans, outcomes, the end of a run. Every text passes through `redact`."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.shell.plan import Outcome, Plan
from jobs.shell.redaction import redact
from jobs.shell.settings import Settings, load

console = Console(soft_wrap=True, highlight=False, emoji=False)
"""Standard output. Without emoji, `a:100:b` in a configuration stays as it is."""


def display_plan(stage: str, plan: Plan[Any]) -> None:
    """One line: what the stage would do, and why; and one for each note."""
    state = "up to date" if plan.up_to_date else "would run"
    console.print(f"{stage}: {state}: {redact(plan.why)}", markup=False)
    for name, text in plan.notes.items():
        console.print(f"  {name}: {redact(text)}", markup=False)


def display_outcome(outcome: Outcome) -> None:
    """One line: what the stage did, why, and the facts of its output."""
    state = "[green]done[/green]" if outcome.ran else "[cyan]up to date[/cyan]"
    console.print(f"[bold]{outcome.stage}[/bold] {state}: ", end="")
    facts = "".join(f"; {name} {value}" for name, value in outcome.facts.items())
    console.print(redact(outcome.why + facts), markup=False)


def display_summary(outcomes: Sequence[Outcome]) -> None:
    """The table at the end of a run: one block of facts per stage."""
    table = Table("stage", "", "what", "", title="Distributary", title_justify="left")
    for outcome in outcomes:
        facts = list(outcome.facts.items()) or [("", outcome.why)]
        for number, (name, value) in enumerate(facts):
            state = [outcome.stage, "done" if outcome.ran else "up to date"] if number == 0 else ["", ""]
            table.add_row(*state, name, Text(redact(value)))
        table.add_section()
    console.print(table)


def display_locations(settings: Settings) -> None:
    """Where the tables and the runs are."""
    store = settings.tree["tracking"]["uri"]
    # `make ui` shows the store of conf/base.yaml only.
    is_default = store == load().tree["tracking"]["uri"]
    hint = "   (make ui shows it on http://127.0.0.1:5000)" if is_default else ""
    console.print(f"tables    {redact(settings.root)}", markup=False)
    console.print(f"MLflow    {redact(store)}{hint}", markup=False)
