"""From an alias or a number to a model folder on this machine, verified by its digest."""

import hashlib
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import Model

from pipelines.machine import cache_folder
from pipelines.registry.versions.find import DIGEST_TAG, find_version
from pipelines.storage import folder_digest


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedModel:
    """One model version. An alias that moves later does not change it."""

    name: str
    version: int
    run_id: str
    uri: str
    """models:/NAME/VERSION"""
    folder: Path
    """The model folder on this machine."""


def resolve_model(name: str, alias_or_version: str | int) -> ResolvedModel:
    """The version of an alias or number, with its model folder on this machine.

    Raises LookupError that names what exists, ValueError if the files are not those that were registered.
    """
    version = find_version(name, alias_or_version)
    uri = f"models:/{name}/{version.version}"
    folder = _model_folder(_fetch_files(version, uri))
    expected, actual = version.tags.get(DIGEST_TAG), folder_digest(folder)
    if expected is not None and actual != expected:
        raise ValueError(
            f"{uri}: digest of {folder} is {actual}, but {expected} was registered; the files were changed "
            "or damaged: restore them, or register the run again"
        )
    return ResolvedModel(
        name=name, version=int(version.version), run_id=str(version.run_id), uri=uri, folder=folder
    )


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
