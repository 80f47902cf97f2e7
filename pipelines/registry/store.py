"""Where runs and models are kept: any MLflow tracking URI, quiet, and with artifacts beside a SQLite store.

Import this module before mlflow: MLflow reads some of its switches once, while it is imported.
"""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_PRINT_MODEL_URLS_ON_CREATION": "false",
    # Else a uv.lock in the working directory takes the place of our requirements.
    "MLFLOW_UV_AUTO_DETECT": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "GIT_PYTHON_REFRESH": "quiet",
    # We write models from code only; a pickled one that someone put into the registry is refused.
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}
"""Switches that a user's own environment overrides."""

for _name, _value in QUIET.items():
    os.environ.setdefault(_name, _value)

import mlflow  # noqa: E402
from mlflow.entities import Experiment, LifecycleStage  # noqa: E402

_artifact_roots: dict[str, str] = {}
"""Tracking URI -> root for artifacts of new experiments; MLflow itself has no client-side setting for it."""


def connect(tracking_uri: str, artifact_root: str | None = None) -> None:
    """Point MLflow at `tracking_uri` (runs and models) and create the SQLite store if it is missing.

    `artifact_root` (folder or URI): where new experiments keep their files; None = `artifacts` beside a SQLite store, the
    server's own choice elsewhere. Call it on the driver only: several processes that create one SQLite store at once die.
    Raises ValueError for a URI without a scheme and for MLflow's retired file store.
    """
    uri = _absolute(tracking_uri)
    if os.environ["MLFLOW_LOGGING_LEVEL"] == QUIET["MLFLOW_LOGGING_LEVEL"]:
        # Someone may have imported mlflow before us.
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
    mlflow.set_tracking_uri(uri)
    # The workspace registry has no aliases; Unity Catalog's has.
    mlflow.set_registry_uri("databricks-uc" if uri == "databricks" else uri)
    root = artifact_root or _beside(uri)
    if root is not None:
        _artifact_roots[uri] = root if "://" in root else str(Path(root).resolve())
    if _sqlite_path(uri) is not None:
        # First contact creates or opens the database; a fault shows here and not in the middle of a training.
        with unwarned():
            mlflow.MlflowClient().search_experiments(max_results=1)


@contextmanager
def unwarned() -> Iterator[None]:
    """Hide what MLflow warns itself about: deprecated SQLAlchemy in its models, vague types in its hints."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*Any type hint is inferred", category=UserWarning)
        yield


def experiment_id(name: str) -> str:
    """Id of the experiment, created if it is missing."""
    client = mlflow.MlflowClient()
    found = find_experiment(name)
    if found is not None:
        return str(found.experiment_id)
    root = _artifact_roots.get(mlflow.get_tracking_uri())
    try:
        return str(
            client.create_experiment(name, artifact_location=root and f"{root.rstrip('/')}/{name.strip('/')}")
        )
    except mlflow.exceptions.MlflowException as error:
        # Another driver may have created it between our look and our call.
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return experiment_id(name)


def find_experiment(name: str) -> Experiment | None:
    """The active experiment of this name. Raises ValueError if it was deleted: MLflow keeps the name taken."""
    experiment = mlflow.MlflowClient().get_experiment_by_name(name)
    if experiment is not None and experiment.lifecycle_stage == LifecycleStage.DELETED:
        raise ValueError(
            f"experiment '{name}' is deleted; run: mlflow experiments restore --experiment-id "
            f"{experiment.experiment_id}, or choose another name"
        )
    return experiment


def _absolute(tracking_uri: str) -> str:
    scheme = urlsplit(tracking_uri).scheme
    if scheme == "file" or not (scheme or tracking_uri == "databricks"):
        raise ValueError(
            f"tracking_uri '{tracking_uri}' is a folder, which MLflow no longer takes; "
            "use sqlite:///FOLDER/mlflow.db or the address of a tracking server"
        )
    path = _sqlite_path(tracking_uri)
    if path is None:
        return tracking_uri
    path.parent.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{path.resolve()}"


def _sqlite_path(uri: str) -> Path | None:
    return Path(unquote(uri.removeprefix("sqlite:///"))) if uri.startswith("sqlite:///") else None


def _beside(uri: str) -> str | None:
    path = _sqlite_path(uri)
    return None if path is None else str(path.parent / "artifacts")


@contextmanager
def no_bytecode() -> Iterator[None]:
    """MLflow runs the script where it keeps it; what Python compiles on the way must not travel with the model."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before
