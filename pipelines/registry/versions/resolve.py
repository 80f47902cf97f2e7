"""From an alias or a number to the files of a model version, verified by their digest.

`locate_model` asks the registry only: which version, which digest, and where its files lie. Code that
loads the model takes them from there. `resolve_model` also brings them to this machine.
"""

import hashlib
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from pipelines.machine import cache_folder
from pipelines.registry.runs.current import FOLDER_TAG
from pipelines.registry.verify import require_digest
from pipelines.registry.versions.find import DIGEST_TAG, find_version
from pipelines.storage import Folder

MODEL_FOLDER = "model"
"""Name of the model folder in the folder of a training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LocatedModel:
    """One model version and where its files may lie. An alias that moves later does not change it."""

    name: str
    version: int
    run_id: str
    uri: str
    """models:/NAME/VERSION"""
    digest: str | None
    """Of the model folder, when it was registered; None = registered by other software."""
    trained_in: str | None
    """The model folder that the training wrote, a path or URI; it may be gone. None = the run is gone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedModel:
    """One model version with its files. An alias that moves later does not change it."""

    name: str
    version: int
    run_id: str
    uri: str
    """models:/NAME/VERSION"""
    folder: Path
    """The model folder on this machine."""


def locate_model(name: str, alias_or_version: str | int) -> LocatedModel:
    """The version of an alias or number, from tags alone: no file is read.

    Raises LookupError that names what exists.
    """
    version = find_version(name, alias_or_version)
    return LocatedModel(
        name=name,
        version=int(version.version),
        run_id=str(version.run_id),
        uri=f"models:/{name}/{version.version}",
        digest=version.tags.get(DIGEST_TAG),
        trained_in=_find_training(str(version.run_id)),
    )


def resolve_model(name: str, alias_or_version: str | int) -> ResolvedModel:
    """The version of an alias or number, with its model folder on this machine.

    Raises LookupError that names what exists, ValueError if the files are not those that were registered.
    """
    return fetch_model(locate_model(name, alias_or_version))


def fetch_model(model: LocatedModel) -> ResolvedModel:
    """The model with its folder on this machine: in place if the store is here, else downloaded once.

    Raises ValueError if the files are not those that were registered.
    """
    version = MlflowClient().get_model_version(model.name, str(model.version))
    folder = _model_folder(_fetch_files(version, model.uri))
    require_digest(folder, model.digest, what=model.uri)
    return ResolvedModel(
        name=model.name, version=model.version, run_id=model.run_id, uri=model.uri, folder=folder
    )


def _find_training(run_id: str) -> str | None:
    """The model folder of a training's run folder."""
    try:
        folder = MlflowClient().get_run(run_id).data.tags.get(FOLDER_TAG)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return None if folder is None else (Folder(folder) / MODEL_FOLDER).path


def _fetch_files(version: ModelVersion, uri: str) -> Path:
    """The folder with MLmodel: in place if the store is on this machine, else downloaded, once per
    machine."""
    client = MlflowClient()
    location = client.get_model_version_download_uri(version.name, version.version)
    if location.startswith("models:/"):
        location = client.get_logged_model(location.removeprefix("models:/").strip("/")).artifact_location
    local = _local_folder(location)
    if local is not None:
        return local
    key = hashlib.sha256(f"{mlflow.get_tracking_uri()}\0{location}".encode()).hexdigest()[:16]
    target = cache_folder() / "models" / f"{key}-{version.version}"
    if not target.is_dir():
        _download(uri, target)
    return target


def _download(uri: str, target: Path) -> None:
    """Download into a folder beside `target` and rename it: `target` is complete or absent."""
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


def _local_folder(location: str) -> Path | None:
    parts = urlsplit(location)
    local = Path(unquote(parts.path) if parts.scheme == "file" else location)
    return local if parts.scheme in ("", "file") and local.is_dir() else None


def _model_folder(files: Path) -> Path:
    flavor = Model.load(str(files)).flavors["python_function"]
    return files / str(flavor["artifacts"]["model"]["path"])
