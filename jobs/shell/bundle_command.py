"""`distributary bundle`: several registered adapters on one base as one model version."""

from typing import Annotated

import typer

from jobs.shell import settings as configuration
from jobs.shell.command import Env, File, Overrides, Recipe, report_errors
from jobs.shell.display import console
from jobs.shell.loading import show_loading
from jobs.shell.preflight import probe_services
from jobs.shell.record import Record

Adapters = Annotated[
    list[str],
    typer.Option(
        "--adapter",
        "-a",
        help="NAME=MODEL/VERSION or NAME=MODEL@ALIAS: a version, and its name in the bundle.",
    ),
]
Name = Annotated[str, typer.Option("--name", help="Registered model that gets the bundle as a new version.")]


def bundle(
    adapter: Adapters,
    name: Name,
    overrides: Overrides = None,
    recipe: Recipe = None,
    env: Env = None,
    file: File = None,
) -> None:
    """Put registered adapters on one base into one model version.

    The version holds the base once, so it is served and scored without it. All adapters must belong to the
    same base weights; their tasks, kinds and ranks may differ. Scoring takes the adapter scoring.adapter, or
    for each row the one that scoring.adapter_column names. The same versions again change nothing.

    \b
    Example:
      distributary bundle --name desk -a intents=tickets@champion -a mood=mood/2
      distributary scoring scoring.name=desk scoring.alias=challenger scoring.adapter_column=team
    """
    from jobs.run import STAGES

    record = Record("bundle", [])
    with report_errors(record):
        versions = read_versions(adapter)
        settings = configuration.load(recipe=recipe, env=env, file=file, overrides=overrides or ())
        config = settings.section("scoring", STAGES["scoring"].Config)
        probe_services(settings, ["scoring"], config.storage)
        record.configure(settings)
        with show_loading("MLflow and torch"):
            from pipelines.registry.store import connect
            from pipelines.registry.versions.bundle import register_bundle
            from pipelines.scoring.compare import SERVE_SCRIPT
        connect(config.tracking.uri, config.tracking.artifacts)
        made = register_bundle(versions, name, experiment=config.tracking.experiment, code=SERVE_SCRIPT)
        what = "holds" if made.is_new else "already holds"
        parts = ", ".join(f"{each} ({m.model} {m.version})" for each, m in made.members.items())
        console.print(f"{name} version {made.version} {what} {parts}", markup=False)


def read_versions(given: list[str]) -> dict[str, tuple[str, str]]:
    """Name of an adapter -> (model, alias or number). Raises ValueError for a text of another form and for a
    name that is given twice."""
    versions: dict[str, tuple[str, str]] = {}
    for text in given:
        adapter, _, place = text.partition("=")
        model, _, version = place.rpartition("@" if "@" in place else "/")
        if not (adapter.isidentifier() and model and version):
            raise ValueError(
                "--adapter must be NAME=MODEL/VERSION or NAME=MODEL@ALIAS, with a name of letters, digits "
                f"and _, got {text!r}"
            )
        if adapter in versions:
            raise ValueError(f"--adapter {adapter} is given twice; take another name for one of the two")
        versions[adapter] = model, version
    return versions
