"""All five stages in order. A stage whose output is up to date does nothing and says why; killed, run it again."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import typer
from rich.table import Table
from rich.text import Text

from jobs import corpus, dataset, finetune, registry, scoring
from jobs.shell import settings as configuration
from jobs.shell.command import DryRun, Env, File, Outcome, Overrides, Recipe, console, faults, tell, tell_plan
from jobs.shell.redaction import redact
from pipelines.storage import absolute

STAGES: dict[str, ModuleType] = {
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
    with faults():
        settings = configuration.load(recipe=recipe, env=env, file=file, overrides=overrides or ())
        configs = settings.sections({name: stage.Config for name, stage in STAGES.items()})
        if dry_run:
            rehearse(configs)
            return
        outcomes = []
        for name, stage in STAGES.items():
            outcomes.append(stage.main(configs[name]))
            tell(outcomes[-1])
        summary(outcomes)
        for line in places(settings.tree):
            console.print(line, markup=False)


def rehearse(configs: dict[str, configuration.Section]) -> None:
    """What each stage would do; below the first that would run, nothing can be known yet."""
    for number, (name, stage) in enumerate(STAGES.items()):
        planned = stage.plan(configs[name])
        tell_plan(name, planned)
        if not planned.up_to_date:
            for below in list(STAGES)[number + 1 :]:
                console.print(f"{below}: would run: its input will be written anew", markup=False)
            return


def places(tree: Mapping[str, Any]) -> list[str]:
    """Where tables and runs are, for a person."""
    store = tree["tracking"]["uri"]
    # The Makefile knows the store of conf/base.yaml only.
    hint = (
        "   (make ui shows it on http://127.0.0.1:5000)"
        if store == configuration.load().tree["tracking"]["uri"]
        else ""
    )
    return [f"tables    {redact(absolute(tree['root']))}", f"MLflow    {redact(store)}{hint}"]


def summary(outcomes: list[Outcome]) -> None:
    table = Table("stage", "", "what", "", title="Distributary", title_justify="left")
    for outcome in outcomes:
        facts = list(outcome.facts.items()) or [("", outcome.why)]
        for number, (name, value) in enumerate(facts):
            state = [outcome.stage, "done" if outcome.ran else "up to date"] if number == 0 else ["", ""]
            table.add_row(*state, name, Text(redact(value)))
        table.add_section()
    console.print(table)


run.__doc__ = __doc__

if __name__ == "__main__":
    typer.run(run)
