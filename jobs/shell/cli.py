"""Spark pipelines that turn text into fine-tuned, registered, scored language models.

\b
Stages and what they write:
  raw files -> documents -> sequences -> MLflow run -> model version -> predictions
           corpus       dataset      finetune      registry         scoring

\b
Start with:      distributary run --recipe customer_service
Every command:   distributary COMMAND --help
"""

import os
import sys
from typing import TYPE_CHECKING, Annotated

from jobs.shell.loading import show_loading

if TYPE_CHECKING:
    from collections.abc import Callable

    import typer

    from jobs.shell.settings import Settings


def examine(as_json: bool, load: "Callable[[], Settings] | None" = None) -> int:
    """Run the doctor, whose imports no other command needs."""
    from jobs.shell.doctor import doctor

    return doctor(as_json, load)


def app() -> None:
    """The console command. The doctor needs only Python: it looks for what keeps the rest from loading."""
    if sys.argv[1:] in (["doctor"], ["doctor", "--json"]):
        sys.exit(examine("--json" in sys.argv))
    try:
        with show_loading("the command line"):
            program = build_program()
    except Exception as error:  # a broken library may raise anything
        if os.environ.get("DISTRIBUTARY_DEBUG"):
            raise
        hint = "run: distributary doctor\n(DISTRIBUTARY_DEBUG=1 shows the traceback)"
        sys.exit(f"error {type(error).__name__}: {error}\n{hint}")
    program()


def build_program() -> "typer.Typer":
    """All commands. Only a stage with work to do loads Spark, torch or MLflow; help appears at once."""
    import typer

    from jobs.run import STAGES, run
    from jobs.shell.bundle_command import bundle
    from jobs.shell.command import build_command
    from jobs.shell.queue_command import add_queue
    from jobs.shell.search_command import search
    from jobs.shell.trace_command import add_trace

    program = typer.Typer(
        help=__doc__,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    _add_version(program)
    program.command("run")(run)
    for name, stage in STAGES.items():
        program.command(name)(build_command(name, stage.Config, stage.main, stage.plan))
    program.command("search")(search)
    add_queue(program)
    program.command("bundle")(bundle)
    _add_config(program)
    _add_doctor(program)
    _add_tables(program)
    add_trace(program)
    _add_undo(program)
    return program


def _add_version(program: "typer.Typer") -> None:
    import typer

    def print_version(wanted: bool) -> None:
        if wanted:
            from jobs.shell.checks import installed_version

            print(f"distributary {installed_version('distributary') or '(not installed)'}")
            raise typer.Exit

    @program.callback()
    def take_options(
        version: Annotated[
            bool,
            typer.Option(
                "--version", is_eager=True, callback=print_version, help="Show the version and exit."
            ),
        ] = False,
    ) -> None: ...


def _add_config(program: "typer.Typer") -> None:
    from jobs.run import STAGES
    from jobs.shell import settings as configuration
    from jobs.shell.command import Env, File, Overrides, Recipe, report_errors
    from jobs.shell.display import console

    @program.command("config")
    def show(overrides: Overrides = None, recipe: Recipe = None, env: Env = None, file: File = None) -> None:
        """Check and print the configuration, without secrets.

        The later layer wins: conf/base.yaml, --env, --recipe, --config, KEY=VALUE.

        \b
        Examples:
          distributary config --recipe customer_service
          distributary config --config mine.yaml finetune.num_epochs=3
        """
        with report_errors():
            settings = configuration.load(recipe=recipe, env=env, file=file, overrides=overrides or ())
            settings.sections({name: stage.Config for name, stage in STAGES.items()})
            console.print(settings.printed, markup=False, end="")


def _add_doctor(program: "typer.Typer") -> None:
    import typer

    from jobs.shell import settings as configuration
    from jobs.shell.command import Env, File, Overrides, Recipe, report_errors

    @program.command()
    def doctor(
        overrides: Overrides = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for machines.")] = False,
        cluster: Annotated[
            bool, typer.Option("--cluster", help="Start Spark and check every executor instead.")
        ] = False,
        recipe: Recipe = None,
        env: Env = None,
        file: File = None,
    ) -> None:
        """Check machine, installation and storage; print fixes.

        With --cluster: Python, packages, Horovod, GPUs, disk, memory, clock and network address of each
        executor of the application that the configuration describes; and what each client of the storage
        can do on the driver and on each executor.

        Exit status 1 if something is broken, 0 otherwise (also with warnings).

        \b
        Examples:
          distributary doctor
          distributary doctor --env cluster root=s3a://bucket/distributary
          distributary doctor --cluster --env cluster spark.master=yarn spark.executor.instances=4
        """
        if not cluster:

            def load() -> "Settings":
                return configuration.load(recipe=recipe, env=env, file=file, overrides=overrides or ())

            raise typer.Exit(examine(as_json, load))
        with report_errors():
            from jobs.shell.cluster import examine_cluster

            status = examine_cluster(
                as_json=as_json, recipe=recipe, env=env, file=file, overrides=overrides or ()
            )
        raise typer.Exit(status)


def _add_tables(program: "typer.Typer") -> None:
    import typer

    from jobs.run import STAGES
    from jobs.shell import settings as configuration
    from jobs.shell.command import Env, File, Overrides, Recipe, report_errors
    from jobs.shell.preflight import probe_services
    from jobs.shell.record import Record

    @program.command("tables")
    def show_tables(
        overrides: Overrides = None,
        delete: Annotated[
            bool, typer.Option("--delete", help="Delete the files that are not needed. Cannot be undone.")
        ] = False,
        min_age_hours: Annotated[
            int, typer.Option(min=1, help="Keep files that a version lost, or a write left, since then.")
        ] = 168,
        recipe: Recipe = None,
        env: Env = None,
        file: File = None,
    ) -> None:
        """List the tables: versions, sizes, and what needs a version.

        A version is needed if it is the newest one, if a run in tracking.uri was trained from it, or if a
        later table of this configuration was made from it. Files of other versions, and files that a killed
        write left, are not needed. Nothing is deleted without --delete.

        \b
        Examples:
          distributary tables --recipe customer_service
          distributary tables --recipe customer_service --delete
        """
        record = Record("tables", [])
        with report_errors(record):
            settings = configuration.load(recipe=recipe, env=env, file=file, overrides=overrides or ())
            configs = settings.sections({name: stage.Config for name, stage in STAGES.items()})
            probe_services(settings, STAGES, configs["corpus"].storage)
            record.configure(settings)
            with show_loading("MLflow"):
                from jobs.shell.tables import show

            show(configs, delete=delete, min_age_hours=min_age_hours)


def _add_undo(program: "typer.Typer") -> None:
    from jobs.run import STAGES
    from jobs.shell import settings as configuration
    from jobs.shell.command import Env, File, Overrides, Recipe, report_errors
    from jobs.shell.display import console
    from jobs.shell.preflight import probe_services
    from jobs.shell.record import Record

    @program.command()
    def undo(overrides: Overrides = None, recipe: Recipe = None, env: Env = None, file: File = None) -> None:
        """Undo the last promotion of a model version.

        The version that was champion before becomes champion again. The other version is withdrawn: the
        gate does not promote it again; a person can, with the alias in MLflow.

        \b
        Example:
          distributary undo --recipe customer_service
        """
        record = Record("undo", [])
        with report_errors(record):
            settings = configuration.load(recipe=recipe, env=env, file=file, overrides=overrides or ())
            config = settings.section("registry", STAGES["registry"].Config)
            probe_services(settings, ["registry"], config.storage)
            record.configure(settings)
            with show_loading("MLflow"):
                from pipelines.registry.store import connect
                from pipelines.registry.versions.aliases import undo_promotion
            connect(config.tracking.uri, config.tracking.artifacts)
            version = undo_promotion(config.name)
            console.print(f"{config.name}: version {version} is champion again", markup=False)


if __name__ == "__main__":
    app()
