"""Find versions of a registered model, in MLflow's own registry and in Unity Catalog.

Unity Catalog's search accepts one condition and returns pages of hits without tags.
"""

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

DIGEST_TAG = "distributary_model_digest"
"""Tag of a version: digest of its model folder. Tags of versions have no dots, because Unity Catalog refuses
them."""


def read_aliases(name: str) -> dict[str, int]:
    """Alias -> version. Raises LookupError if there is no such model."""
    try:
        aliases = MlflowClient().get_registered_model(name).aliases
    except MlflowException as error:
        if is_missing(error):
            raise LookupError(f"no registered model '{name}'; run: distributary registry") from None
        raise
    return {alias: int(version) for alias, version in aliases.items()}


def find_version(name: str, alias_or_version: str | int) -> ModelVersion:
    """One version with its tags. Raises LookupError that names the existing aliases and versions."""
    aliases = read_aliases(name)
    number = aliases.get(str(alias_or_version))
    if number is None and str(alias_or_version).isdecimal():
        number = int(alias_or_version)
    if number is not None:
        try:
            return MlflowClient().get_model_version(name, str(number))
        except MlflowException as error:
            if not is_missing(error):
                raise
    known = ", ".join(f"{alias} (version {version})" for alias, version in sorted(aliases.items()))
    versions = ", ".join(map(str, sorted(int(hit.version) for hit in _search(name))))
    raise LookupError(
        f"{name} has no version or alias '{alias_or_version}'; aliases: {known or 'none'}; "
        f"versions: {versions or 'none'}"
    )


def find_versions_of_run(name: str, run_id: str) -> list[ModelVersion]:
    """The versions that contain a model of this run, with their tags, oldest first; empty if there is no such
    model."""
    versions = []
    for hit in _search(name):
        if hit.run_id != run_id:
            continue
        try:
            versions.append(MlflowClient().get_model_version(name, hit.version))
        except MlflowException as error:
            # Of two drivers that register one model at the same time, the second deletes its version.
            if not is_missing(error):
                raise
    return sorted(versions, key=lambda version: int(version.version))


def find_runs(name: str) -> dict[str, int]:
    """Run -> one of the versions that contain a model of it; empty if there is no such model."""
    return {str(hit.run_id or ""): int(hit.version) for hit in _search(name)}


def is_missing(error: MlflowException) -> bool:
    """True if the error says that the requested object does not exist."""
    return bool(error.error_code == "RESOURCE_DOES_NOT_EXIST")


def _search(name: str) -> list[ModelVersion]:
    quoted = name.replace("'", "''")
    hits: list[ModelVersion] = []
    token = None
    while True:
        try:
            page = MlflowClient().search_model_versions(f"name = '{quoted}'", page_token=token)
        except MlflowException as error:
            if not is_missing(error):
                raise
            return hits
        hits.extend(page)
        token = page.token
        if not token:
            return hits
