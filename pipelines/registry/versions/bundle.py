"""Put model versions that were trained with adapters on one base into one version: a bundle.

It has a run of its own, found by the versions that it holds, whose tags name them and their runs; the runs of
those versions name the bundle. So from each side `lineage.json` leads to the other, and from there to the
rows. A call that was killed can be repeated, and the same versions under the same names are bundled once."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from mlflow import MlflowClient

from pipelines.pin import fingerprint
from pipelines.registry.runs.lineage import BUNDLE_TAG, MEMBER_TAG, write_lineage
from pipelines.registry.runs.tracker import Tracker, find_run, read_run_status
from pipelines.registry.store import require_connection
from pipelines.registry.versions.find import find_runs, find_versions_of_run
from pipelines.registry.versions.register import register_model
from pipelines.registry.versions.resolve import LocatedModel, fetch_model, locate_model

REVISION = 1
"""Raise it when equal versions give another bundle than before."""
EXAMPLE = "A text."
"""Input example of a bundle: its adapters may have any task."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """Where an adapter of a bundle comes from."""

    model: str
    version: int
    run_id: str
    digest: str
    """Of its model folder, as it was registered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """A registered bundle."""

    version: int
    run_id: str
    members: Mapping[str, Member]
    is_new: bool
    """Whether this call has made it."""


def register_bundle(
    versions: Mapping[str, tuple[str, str | int]], name: str, *, experiment: str, code: Path
) -> Bundle:
    """The version of `name` that holds the adapters of model versions, each given as name and alias or
    number, by the name under which rows will ask for it. The alias `challenger` moves to a new one.

    Raises ValueError if there are fewer than two, if a version has no adapter or belongs to another base, if
    `name` has versions that are no bundles, LookupError if one does not exist, FileNotFoundError if the base
    is not within reach.
    """
    require_connection()
    if len(versions) < 2:
        raise ValueError(f"a bundle holds at least 2 adapters, got {len(versions)}; register one by itself")
    located = {adapter: locate_model(*version) for adapter, version in sorted(versions.items())}
    members = {adapter: _describe(model) for adapter, model in located.items()}
    made_from = fingerprint(
        "bundle", REVISION, name, {each: asdict(member) for each, member in members.items()}
    )
    run = find_run(experiment, made_from)
    if run is not None and run.info.status == "FINISHED":
        for found in find_versions_of_run(name, run.info.run_id):
            if found.status == "READY":
                version = int(found.version)
                _name_bundle(members, name, version, run.info.run_id)  # a run may have been restored
                return Bundle(version=version, run_id=run.info.run_id, members=members, is_new=False)
    _require_own_name(name)
    tags = {f"{MEMBER_TAG}{each}": json.dumps(asdict(member)) for each, member in members.items()}
    with Tracker(experiment, made_from, name="bundle", tags=tags) as tracker:
        tracker.log_params({"adapters": {each: f"{m.model} {m.version}" for each, m in members.items()}})
        version = _register(located, members, name, tracker.run_id, code)
        # Before the run ends: a call that is killed here is repeated, one of a finished run is not.
        _name_bundle(members, name, version, tracker.run_id)
    return Bundle(version=version, run_id=tracker.run_id, members=members, is_new=True)


def _name_bundle(members: Mapping[str, Member], name: str, version: int, run_id: str) -> None:
    """Let the runs of the members name the bundle. Runs that were deleted take no tags, and are left out."""
    # Keys of tags refuse characters that names of models may have.
    value = json.dumps({"name": name, "version": version}, ensure_ascii=False)
    for member_run in sorted({member.run_id for member in members.values()}):
        if read_run_status(member_run) not in ("deleted", "unknown"):
            MlflowClient().set_tag(member_run, f"{BUNDLE_TAG}{run_id}", value)
            write_lineage(member_run)


def _require_own_name(name: str) -> None:
    """Raise ValueError if versions of `name` are no bundles: the gate would compare a trained version with a
    bundle."""
    for run_id, version in find_runs(name).items():
        if run_id and read_run_status(run_id) == "unknown":
            continue  # removed for good: what the version holds is not known
        tags = MlflowClient().get_run(run_id).data.tags if run_id else {}
        if not any(key.startswith(MEMBER_TAG) for key in tags):
            raise ValueError(
                f"version {version} of {name} is no bundle; register bundles under a name of their own"
            )


def _describe(model: LocatedModel) -> Member:
    if model.digest is None:
        raise ValueError(
            f"{model.uri} was registered by other software, so what it holds can't be checked; take versions "
            "that the registry stage registered"
        )
    return Member(model=model.name, version=model.version, run_id=model.run_id, digest=model.digest)


def _register(
    located: Mapping[str, LocatedModel], members: Mapping[str, Member], name: str, run_id: str, code: Path
) -> int:
    from pipelines.finetune.models.bundle import write_bundle  # loads torch
    from pipelines.finetune.models.folder import read_base_of

    folders = {adapter: fetch_model(model).folder for adapter, model in located.items()}
    origins = {adapter: asdict(member) for adapter, member in members.items()}
    for adapter, folder in folders.items():
        try:
            read_base_of(folder)
        except ValueError as error:
            raise ValueError(f"{located[adapter].uri}: {error}") from None
    with tempfile.TemporaryDirectory(prefix="distributary-") as scratch:
        write_bundle(folders, origins, Path(scratch) / "model")
        return register_model(run_id, Path(scratch) / "model", name, code=code, input_example=[EXAMPLE])
