"""Finding versions of a registered model, in MLflow's own registry and in Unity Catalog, whose search takes one condition and
gives pages of hits without tags.
"""

from pipelines.registry import store  # noqa: F401  (before mlflow: switches its noise off)

# isort: split
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException


def aliases_of(name: str) -> dict[str, int]:
    """Alias -> version. Raises LookupError if there is no such model."""
    try:
        return {
            alias: int(version)
            for alias, version in MlflowClient().get_registered_model(name).aliases.items()
        }
    except MlflowException as error:
        if is_missing(error):
            raise LookupError(f"no registered model '{name}'; run: distributary registry") from None
        raise


def find_version(name: str, alias_or_version: str | int) -> ModelVersion:
    """One version with its tags. Raises LookupError naming what exists."""
    aliases = aliases_of(name)
    number = aliases.get(str(alias_or_version)) or (
        int(alias_or_version) if str(alias_or_version).isdecimal() else None
    )
    try:
        if number is None:
            raise LookupError
        return MlflowClient().get_model_version(name, str(number))
    except (LookupError, MlflowException) as error:
        if isinstance(error, MlflowException) and not is_missing(error):
            raise
        known = (
            ", ".join(f"{alias} (version {version})" for alias, version in sorted(aliases.items())) or "none"
        )
        versions = (
            ", ".join(str(version) for version in sorted(int(hit.version) for hit in _search(name))) or "none"
        )
        raise LookupError(
            f"{name} has no version or alias '{alias_or_version}'; aliases: {known}; versions: {versions}"
        ) from None


def versions_of(name: str, run_id: str) -> list[ModelVersion]:
    """The versions that hold a model of this run, with their tags, oldest first; none if there is no such model."""
    found = []
    for hit in _search(name):
        if hit.run_id == run_id:
            try:
                found.append(MlflowClient().get_model_version(name, hit.version))
            except MlflowException as error:
                # The second of two drivers that register one model at once drops its version.
                if not is_missing(error):
                    raise
    return sorted(found, key=lambda version: int(version.version))


def is_missing(error: MlflowException) -> bool:
    """True if what was asked for does not exist."""
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
