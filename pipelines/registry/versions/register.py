"""Model versions: registered once a training, found by alias, promoted and withdrawn.

Aliases: `challenger` is the newest version registered, `champion` the one people use. Every step can be killed and run again.
Names of a version's tags have no dots: Unity Catalog refuses them.
"""

import hashlib
import logging
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipelines.registry import store  # noqa: F401  (before mlflow: switches its noise off)

# isort: split
import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from pipelines.registry.runs.lineage import write_lineage
from pipelines.registry.versions.find import aliases_of, find_version, versions_of
from pipelines.registry.versions.upload import complete_upload, upload
from pipelines.storage import cache_folder, folder_digest

logger = logging.getLogger(__name__)

CHALLENGER, CHAMPION = "challenger", "champion"
DIGEST_TAG, PREVIOUS_TAG = "distributary_model_digest", "distributary_previous_champion"
WITHDRAWN_TAG = "distributary_withdrawn"
"""Date on which `undo` took alias `champion` from a version."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedModel:
    """One model version, settled: an alias that moves later does not change it."""

    name: str
    version: int
    run_id: str
    uri: str
    """models:/NAME/VERSION"""
    folder: Path
    """The model folder on this machine."""


def register(run_id: str, model_folder: Path, name: str, *, code: Path, input_example: Sequence[str]) -> int:
    """The version of `name` that holds this run's model, created once and given alias `challenger`; the run's lineage names it.

    Killed anywhere and called again it continues: a version with this run and these weights is returned as it is, a finished
    upload is registered, half an upload of a dead driver is deleted. Two drivers that register one model at once agree on the
    smaller version. `code` is the models-from-code script inside the `pipelines` package. The alias only ever moves forward, so
    registering an old run again does not make it the challenger.
    """
    client = MlflowClient()
    digest = folder_digest(model_folder)
    version = _version_of(name, run_id, digest)
    if version is None:
        model_id = complete_upload(run_id, digest) or upload(
            run_id, model_folder, code=code, input_example=input_example, digest=digest
        )
        version = _create_version(client, name, run_id, model_id, digest)
        logger.info("registered %s version %d from run %s", name, version, run_id)
    else:
        logger.info("%s version %d already holds the model of run %s", name, version, run_id)
    if version > aliases_of(name).get(CHALLENGER, 0):
        client.set_registered_model_alias(name, CHALLENGER, str(version))
    write_lineage(run_id)
    return version


def resolve(name: str, alias_or_version: str | int) -> ResolvedModel:
    """The version behind an alias or number, its model folder on this machine and checked against the digest registered.

    Raises LookupError naming what exists, ValueError if the files are not those that were registered.
    """
    client = MlflowClient()
    version = find_version(name, alias_or_version)
    uri = f"models:/{name}/{version.version}"
    folder = _model_folder(
        _local_files(client.get_model_version_download_uri(name, version.version), uri, version)
    )
    expected, found = version.tags.get(DIGEST_TAG), folder_digest(folder)
    if expected is not None and found != expected:
        raise ValueError(
            f"{uri}: digest of {folder} is {found}, registered was {expected}; the files were changed or damaged: "
            "restore them, or register the run again"
        )
    return ResolvedModel(
        name=name, version=int(version.version), run_id=str(version.run_id), uri=uri, folder=folder
    )


def champion_of(name: str) -> int | None:
    """The version that is champion now; None if there is none."""
    return aliases_of(name).get(CHAMPION)


def rival_of(name: str, version: int) -> int | None:
    """The champion that `version` has to beat, or had to beat if it is champion itself; None if there is or was none."""
    champion = champion_of(name)
    if champion != version:
        return champion
    previous = find_version(name, version).tags.get(PREVIOUS_TAG, "")
    return int(previous) if previous else None


def promote(name: str, version: int) -> int | None:
    """Make `version` the champion; the champion before it, or None. A no-op if it is champion already.

    Also how a person brings back a version that `undo` withdrew; setting the alias in MLflow's pages is as good.
    """
    client = MlflowClient()
    chosen = find_version(name, version)
    before = aliases_of(name).get(CHAMPION)
    if before != version:
        # The tag first: killed between the two, the next call writes it again with the same value.
        client.set_model_version_tag(name, str(version), PREVIOUS_TAG, "" if before is None else str(before))
        # Who has been champion since was so by somebody's will.
        for each in [chosen] if before is None else [chosen, client.get_model_version(name, str(before))]:
            if WITHDRAWN_TAG in each.tags:
                client.delete_model_version_tag(name, each.version, WITHDRAWN_TAG)
        client.set_registered_model_alias(name, CHAMPION, str(version))
    return before


def undo(name: str) -> int:
    """Give alias `champion` back to the version that had it before; that version. The gate does not promote the withdrawn one
    again: only a person does, by `promote` or by setting the alias in MLflow.

    Raises LookupError if there is no champion or none before it.
    """
    client = MlflowClient()
    champion = find_version(name, CHAMPION)
    previous = champion.tags.get(PREVIOUS_TAG, "")
    if not previous:
        raise LookupError(
            f"{name}: version {champion.version} is the first champion, there is none to go back to; "
            "promote another version"
        )
    client.set_model_version_tag(name, champion.version, WITHDRAWN_TAG, datetime.now(UTC).date().isoformat())
    client.set_registered_model_alias(name, CHAMPION, previous)
    return int(previous)


def withdrawn(name: str, version: int) -> str:
    """Date on which `undo` withdrew `version` (YYYY-MM-DD, UTC); empty if it did not, or if the version is champion again."""
    return (
        "" if champion_of(name) == version else str(find_version(name, version).tags.get(WITHDRAWN_TAG, ""))
    )


def _version_of(name: str, run_id: str, digest: str) -> int | None:
    return next(
        (
            int(version.version)
            for version in versions_of(name, run_id)
            if version.tags.get(DIGEST_TAG) == digest and version.status == "READY"
        ),
        None,
    )


def _create_version(client: MlflowClient, name: str, run_id: str, model_id: str, digest: str) -> int:
    """A new version, or the smaller one that another driver has made of the same model meanwhile: ours is dropped then."""
    _ensure_registered_model(client, name)
    made = int(
        client.create_model_version(
            name, source=f"models:/{model_id}", run_id=run_id, model_id=model_id, tags={DIGEST_TAG: digest}
        ).version
    )
    first = _version_of(name, run_id, digest) or made
    if first < made:
        client.delete_model_version(name, str(made))
        logger.warning(
            "%s version %d holds the same model and was there first; version %d is dropped", name, first, made
        )
    return min(first, made)


def _ensure_registered_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _local_files(source: str, uri: str, version: ModelVersion) -> Path:
    """Folder with MLmodel: in place if the store is on this machine, else downloaded once a machine."""
    location = source
    if source.startswith("models:/"):
        location = (
            MlflowClient().get_logged_model(source.removeprefix("models:/").strip("/")).artifact_location
        )
    local = _in_place(location)
    if local is not None:
        return local
    key = hashlib.sha256(f"{mlflow.get_tracking_uri()}\0{location}".encode()).hexdigest()[:16]
    target = cache_folder() / "models" / f"{key}-{version.version}"
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=target.parent, prefix=".part-"))
        try:
            mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(part))
            part.replace(target)
        except OSError:
            # Another process may have finished the same download first.
            if not target.is_dir():
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return target


def _in_place(location: str) -> Path | None:
    parts = urlsplit(location)
    local = Path(unquote(parts.path) if parts.scheme == "file" else location)
    return local if parts.scheme in ("", "file") and local.is_dir() else None


def _model_folder(files: Path) -> Path:
    flavor = Model.load(str(files)).flavors["python_function"]
    return files / str(flavor["artifacts"]["model"]["path"])
