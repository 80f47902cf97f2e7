"""All five stages in order. A stage whose output is up to date does nothing and says why; killed, run it again."""

from types import ModuleType

import typer
from rich.table import Table

from jobs import config as configuration
from jobs import corpus, dataset, finetune, registry, scoring
from jobs.stage import DryRun, Env, File, Outcome, Overrides, Recipe, console, faults, tell, tell_plan
from pipelines.storage import absolute

STAGES: dict[str, ModuleType] = {
    "corpus": corpus, "dataset": dataset, "finetune": finetune, "registry": registry, "scoring": scoring}


def run(overrides: Overrides = None, recipe: Recipe = None, env: Env = None, file: File = None, dry_run: DryRun = False) -> None:
    with faults():
        settings = configuration.load(recipe=recipe, env=env, file=file, overrides=overrides or ())
        configs = {name: settings.section(name, stage.Config) for name, stage in STAGES.items()}
        if dry_run:
            rehearse(configs)
            return
        outcomes = []
        for name, stage in STAGES.items():
            outcomes.append(stage.main(configs[name]))
            tell(outcomes[-1])
        summary(outcomes)
        console.print(f"tables    {absolute(settings.tree['root'])}", markup=False)
        console.print(f"MLflow    {settings.tree['tracking']['uri']}   (make ui shows it on http://127.0.0.1:5000)", markup=False)


def rehearse(configs: dict[str, configuration.Section]) -> None:
    """What each stage would do; below the first that would run, nothing can be known yet."""
    for number, (name, stage) in enumerate(STAGES.items()):
        planned = stage.plan(configs[name])
        tell_plan(name, planned)
        if not planned.up_to_date:
            for below in list(STAGES)[number + 1 :]:
                console.print(f"{below}: would run: its input will be written anew", markup=False)
            return


def summary(outcomes: list[Outcome]) -> None:
    table = Table("stage", "", "what", "", title="Distributary", title_justify="left")
    for outcome in outcomes:
        facts = list(outcome.facts.items()) or [("", outcome.why)]
        for number, (name, value) in enumerate(facts):
            first = number == 0
            table.add_row(outcome.stage if first else "", ("done" if outcome.ran else "up to date") if first else "", name, value)
        table.add_section()
    console.print(table)


run.__doc__ = __doc__

if __name__ == "__main__":
    typer.run(run)
