"""Spark pipelines that turn text into fine-tuned, registered, scored language models.

raw files -> documents -> sequences -> MLflow run -> model version -> predictions.
"""

from typing import Annotated

import typer

from jobs.loading import loading

with loading("torch, transformers, MLflow and Spark"):
    from jobs import config as configuration
    from jobs.run import STAGES, run
    from jobs.stage import Env, File, Overrides, Recipe, command, console, faults

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, rich_markup_mode=None,
                  context_settings={"help_option_names": ["-h", "--help"]})
app.command("run")(run)
for _name, _stage in STAGES.items():
    app.command(_name)(command(_name, _stage.Config, _stage.main, _stage.plan))


@app.command("config")
def show(overrides: Overrides = None, recipe: Recipe = None, env: Env = None, file: File = None) -> None:
    """Print the configuration that holds in the end, checked, secrets redacted."""
    with faults():
        settings = configuration.load(recipe=recipe, env=env, file=file, overrides=overrides or ())
        for name, stage in STAGES.items():
            settings.section(name, stage.Config)
        console.print(settings.printed, markup=False, end="")


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for machines.")] = False) -> None:
    """Check this machine and installation; each fault with its fix. Exit status 1 if something is broken."""
    from jobs.doctor import doctor as examine

    raise typer.Exit(examine(as_json))


@app.command()
def undo(overrides: Overrides = None, recipe: Recipe = None, env: Env = None, file: File = None) -> None:
    """Give the champion's alias back to the version that had it before the last promotion."""
    from pipelines.registry import models
    from pipelines.registry.store import connect

    with faults():
        settings = configuration.load(recipe=recipe, env=env, file=file, overrides=overrides or ())
        config = settings.section("registry", STAGES["registry"].Config)
        connect(config.tracking.uri, config.tracking.artifacts)
        console.print(f"{config.name}: version {models.undo(config.name)} is champion again", markup=False)


if __name__ == "__main__":
    app()
