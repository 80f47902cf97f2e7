"""Spark pipelines that turn text into fine-tuned, registered, scored language models.

raw files -> documents -> sequences -> MLflow run -> model version -> predictions.
"""

import os
import sys
from typing import TYPE_CHECKING, Annotated

from jobs.shell.doctor import doctor as examine
from jobs.shell.loading import loading

if TYPE_CHECKING:
    import typer


def app() -> None:
    """The console command. The doctor runs on Python alone: what it looks for may be why the rest does not load."""
    if sys.argv[1:] in (["doctor"], ["doctor", "--json"]):
        sys.exit(examine("--json" in sys.argv))
    try:
        with loading("torch, transformers, MLflow and Spark"):
            full = commands()
    except Exception as error:  # a broken library may raise anything
        if os.environ.get("DISTRIBUTARY_DEBUG"):
            raise
        sys.exit(
            f"error {type(error).__name__}: {error}\nrun: distributary doctor\n(DISTRIBUTARY_DEBUG=1 shows the traceback)"
        )
    full()


def commands() -> "typer.Typer":
    """Every command; loads what the stages need."""
    import typer

    from jobs.run import STAGES, run
    from jobs.shell import settings as configuration
    from jobs.shell.command import Env, File, Overrides, Recipe, command, console, faults
    from pipelines.registry.store import connect
    from pipelines.registry.versions.aliases import undo_promotion

    full = typer.Typer(
        help=__doc__,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    full.command("run")(run)
    for name, stage in STAGES.items():
        full.command(name)(command(name, stage.Config, stage.main, stage.plan))

    @full.command("config")
    def show(overrides: Overrides = None, recipe: Recipe = None, env: Env = None, file: File = None) -> None:
        """Print the configuration that holds in the end, checked, secrets redacted."""
        with faults():
            settings = configuration.load(recipe=recipe, env=env, file=file, overrides=overrides or ())
            settings.sections({name: stage.Config for name, stage in STAGES.items()})
            console.print(settings.printed, markup=False, end="")

    @full.command()
    def doctor(
        as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for machines.")] = False,
    ) -> None:
        """Check this machine and installation; each fault with its fix. Exit status 1 if something is broken."""
        raise typer.Exit(examine(as_json))

    @full.command()
    def undo(overrides: Overrides = None, recipe: Recipe = None, env: Env = None, file: File = None) -> None:
        """Give the champion's alias back to the version that had it before the last promotion.

        The version that loses it is withdrawn: the gate does not promote it again; a person may, by the alias in MLflow.
        """
        with faults():
            settings = configuration.load(recipe=recipe, env=env, file=file, overrides=overrides or ())
            config = settings.section("registry", STAGES["registry"].Config)
            connect(config.tracking.uri, config.tracking.artifacts)
            console.print(
                f"{config.name}: version {undo_promotion(config.name)} is champion again", markup=False
            )

    return full


if __name__ == "__main__":
    app()
