"""Model versions: registered once a training, found by alias, promoted and withdrawn; weights as safetensors, never a pickle.

Aliases: `challenger` is the newest version registered, `champion` the one people use. Every step can be killed and run again.
"""

import hashlib
import importlib.metadata
import logging
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipelines.registry import store  # before mlflow: switches its noise off

# isort: split
import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, Schema

from pipelines.registry.digest import folder_digest
from pipelines.spark import cache_folder

with store.unwarned():
    import mlflow.pyfunc

logger = logging.getLogger(__name__)

CHALLENGER, CHAMPION = "challenger", "champion"
DIGEST_TAG = "distributary.model_digest"
PREVIOUS_TAG = "distributary.previous_champion"
REQUIREMENTS = ("mlflow", "numpy", "pandas", "safetensors", "tokenizers", "torch", "transformers")
"""What a process that loads a model needs; pinned to what is installed when it is registered."""
SIGNATURE = ModelSignature(inputs=Schema([ColSpec("string", "text")]),
                           outputs=Schema([ColSpec("string", "prediction"), ColSpec("double", "score")]))


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
    """The version of `name` that holds this run's model, created once and given alias `challenger`.

    Killed anywhere and called again it continues: a version with this run and these weights is returned as it is, a finished
    upload is registered, half an upload is deleted. `code` is the models-from-code script inside the `pipelines` package.
    The alias only ever moves forward, so registering an old run again does not make it the challenger.
    """
    client = MlflowClient()
    digest = folder_digest(model_folder)
    version = _version_of(client, name, run_id, digest)
    if version is None:
        model_id = _logged_model(client, run_id, digest) or _log_model(run_id, model_folder, code, input_example, digest)
        _ensure_registered_model(client, name)
        version = int(client.create_model_version(name, source=f"models:/{model_id}", run_id=run_id, model_id=model_id,
                                                  tags={DIGEST_TAG: digest}).version)
        logger.info("registered %s version %d from run %s", name, version, run_id)
    else:
        logger.info("%s version %d already holds the model of run %s", name, version, run_id)
    if version > _aliases(client, name).get(CHALLENGER, 0):
        client.set_registered_model_alias(name, CHALLENGER, str(version))
    return version


def resolve(name: str, alias_or_version: str | int) -> ResolvedModel:
    """The version behind an alias or number, its model folder on this machine and checked against the digest registered.

    Raises LookupError naming what exists, ValueError if the files are not those that were registered.
    """
    client = MlflowClient()
    version = _find_version(client, name, alias_or_version)
    uri = f"models:/{name}/{version.version}"
    folder = _model_folder(_local_files(client.get_model_version_download_uri(name, version.version), uri, version))
    expected, found = version.tags.get(DIGEST_TAG), folder_digest(folder)
    if expected is not None and found != expected:
        raise ValueError(f"{uri}: digest of {folder} is {found}, registered was {expected}; the files were changed or damaged: "
                         "restore them, or register the run again")
    return ResolvedModel(name=name, version=int(version.version), run_id=str(version.run_id), uri=uri, folder=folder)


def champion_of(name: str) -> int | None:
    """The version that is champion now; None if there is none."""
    return _aliases(MlflowClient(), name).get(CHAMPION)


def rival_of(name: str, version: int) -> int | None:
    """The champion that `version` has to beat, or had to beat if it is champion itself; None if there is or was none."""
    champion = champion_of(name)
    if champion != version:
        return champion
    previous = _find_version(MlflowClient(), name, version).tags.get(PREVIOUS_TAG, "")
    return int(previous) if previous else None


def promote(name: str, version: int) -> int | None:
    """Make `version` the champion; the champion before it, or None. A no-op if it is champion already."""
    client = MlflowClient()
    _find_version(client, name, version)
    before = _aliases(client, name).get(CHAMPION)
    if before != version:
        # The tag first: killed between the two, the next call writes it again with the same value.
        client.set_model_version_tag(name, str(version), PREVIOUS_TAG, "" if before is None else str(before))
        client.set_registered_model_alias(name, CHAMPION, str(version))
    return before


def undo(name: str) -> int:
    """Give alias `champion` back to the version that had it before; that version.

    Raises LookupError if there is no champion or none before it.
    """
    client = MlflowClient()
    champion = _find_version(client, name, CHAMPION)
    previous = champion.tags.get(PREVIOUS_TAG, "")
    if not previous:
        raise LookupError(f"{name}: version {champion.version} is the first champion, there is none to go back to; "
                          "promote another version")
    client.set_registered_model_alias(name, CHAMPION, previous)
    return int(previous)


def _version_of(client: MlflowClient, name: str, run_id: str, digest: str) -> int | None:
    # By name alone: Unity Catalog filters by nothing else.
    versions = client.search_model_versions(f"name = '{_quoted(name)}'")
    return min((int(v.version) for v in versions if v.run_id == run_id and v.tags.get(DIGEST_TAG) == digest), default=None)


def _logged_model(client: MlflowClient, run_id: str, digest: str) -> str | None:
    """The complete upload of these weights by this run; incomplete ones are deleted."""
    run = client.get_run(run_id)
    uploads: list[LoggedModel] = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{_quoted(run_id)}'")
    ours = [model for model in uploads if model.tags.get(DIGEST_TAG) == digest]
    for model in ours:
        if model.status != LoggedModelStatus.READY:
            logger.warning("run %s: deleting model %s, whose upload was cut off", run_id, model.model_id)
            client.delete_logged_model(model.model_id)
    return next((str(model.model_id) for model in ours if model.status == LoggedModelStatus.READY), None)


def _log_model(run_id: str, model_folder: Path, code: Path, input_example: Sequence[str], digest: str) -> str:
    package = next((parent for parent in Path(code).resolve().parents if parent.name == "pipelines"), None)
    if package is None:
        raise ValueError(f"{code} is not inside the pipelines package, so its imports could not travel with the model")
    client = MlflowClient()
    # Made by us: MLflow would put it into the experiment of the active run, or else into "Default", whose files go to ./mlruns.
    upload = client.create_logged_model(client.get_run(run_id).info.experiment_id, name="model", source_run_id=run_id,
                                        tags={DIGEST_TAG: digest})
    with store.unwarned(), store.no_bytecode():
        # Model.log and not mlflow.pyfunc.log_model: the latter needs an active run, which would set the run's status anew.
        Model.log(
            artifact_path=None, name="model", flavor=mlflow.pyfunc, run_id=run_id, model_id=upload.model_id,
            python_model=str(code), code_paths=[str(package)], artifacts={"model": str(Path(model_folder).resolve())},
            signature=SIGNATURE, input_example=pd.DataFrame({"text": list(input_example)}),
            pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in REQUIREMENTS])
    return str(upload.model_id)


def _ensure_registered_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _aliases(client: MlflowClient, name: str) -> dict[str, int]:
    try:
        return {alias: int(version) for alias, version in client.get_registered_model(name).aliases.items()}
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise LookupError(f"no registered model '{name}'; run: distributary registry") from None
        raise


def _find_version(client: MlflowClient, name: str, alias_or_version: str | int) -> ModelVersion:
    aliases = _aliases(client, name)
    number = aliases.get(str(alias_or_version)) or (int(alias_or_version) if str(alias_or_version).isdecimal() else None)
    try:
        if number is None:
            raise LookupError
        return client.get_model_version(name, str(number))
    except (LookupError, MlflowException) as error:
        if isinstance(error, MlflowException) and error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        known = ", ".join(f"{alias} (version {version})" for alias, version in sorted(aliases.items())) or "none"
        versions = sorted(int(found.version) for found in client.search_model_versions(f"name = '{_quoted(name)}'"))
        raise LookupError(f"{name} has no version or alias '{alias_or_version}'; aliases: {known}; versions: "
                          f"{', '.join(map(str, versions)) or 'none'}") from None


def _local_files(source: str, uri: str, version: ModelVersion) -> Path:
    """Folder with MLmodel: in place if the store is on this machine, else downloaded once a machine."""
    location = source
    if source.startswith("models:/"):
        location = MlflowClient().get_logged_model(source.removeprefix("models:/").strip("/")).artifact_location
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


def _quoted(text: str) -> str:
    return text.replace("'", "''")
