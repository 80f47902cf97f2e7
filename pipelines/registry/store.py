"""Where runs and models are kept: any MLflow tracking URI. The artifacts of a SQLite store lie beside it."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
from mlflow.entities import Experiment, LifecycleStage
from mlflow.exceptions import MlflowException

from pipelines.registry import MLFLOW_DEFAULTS
from pipelines.registry.paths import SQLITE, sqlite_path
from pipelines.stores import export_to_mlflow

_artifact_roots: dict[str, str] = {}
"""Tracking URI -> root for artifacts of new experiments. MLflow has no setting for it on the client's
side."""


def connect(tracking_uri: str, artifact_root: str | None = None) -> None:
    """Point MLflow at `tracking_uri` (runs and models) and create the SQLite store if it is missing.

    `artifact_root` (folder or URI): where new experiments keep their files. None = `artifacts` beside a
    SQLite store, the server's own choice for a tracking server. Call it on the driver only: if several
    processes create one SQLite store at the same time, they fail. Calling it again with the same URI costs
    nothing.

    Raises ValueError for a URI without a scheme and for a folder, which MLflow no longer supports.
    """
    uri = _make_absolute(tracking_uri)
    _set_log_level()
    export_to_mlflow()
    mlflow.set_tracking_uri(uri)
    # The workspace registry of Databricks has no aliases; Unity Catalog's has.
    mlflow.set_registry_uri("databricks-uc" if uri == "databricks" else uri)
    root = artifact_root or _default_artifact_root(uri)
    if root is not None:
        _artifact_roots[uri] = root if "://" in root else str(Path(root).resolve())
    if sqlite_path(uri) is not None:
        # The first request opens or creates the database: a fault shows here, and not in the middle of a
        # training.
        with hide_mlflow_warnings():
            mlflow.MlflowClient().search_experiments(max_results=1)


def require_connection() -> None:
    """Raise RuntimeError if `connect` was not called: MLflow would write to a store of its own in the working
    folder."""
    if not mlflow.is_tracking_uri_set():
        raise RuntimeError("no store is connected; call pipelines.registry.store.connect(tracking_uri) first")


@contextmanager
def hide_mlflow_warnings() -> Iterator[None]:
    """Hide warnings about MLflow's own code: deprecated SQLAlchemy in its models, vague types in its
    hints."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*Any type hint is inferred", category=UserWarning)
        yield


def ensure_experiment(name: str) -> str:
    """Id of the experiment; it is created if it is missing."""
    client = mlflow.MlflowClient()
    experiment = find_experiment(name)
    if experiment is not None:
        return str(experiment.experiment_id)
    root = _artifact_roots.get(mlflow.get_tracking_uri())
    location = None if root is None else f"{root.rstrip('/')}/{name.strip('/')}"
    try:
        return str(client.create_experiment(name, artifact_location=location))
    except MlflowException as error:
        # Another driver may have created it since we looked.
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return ensure_experiment(name)


def find_experiment(name: str) -> Experiment | None:
    """The active experiment with this name; None if there is none.

    Raises ValueError if it was deleted, because MLflow does not free the name.
    """
    experiment = mlflow.MlflowClient().get_experiment_by_name(name)
    if experiment is not None and experiment.lifecycle_stage == LifecycleStage.DELETED:
        raise ValueError(
            f"experiment '{name}' is deleted; run: mlflow experiments restore --experiment-id "
            f"{experiment.experiment_id}, or choose another name"
        )
    return experiment


def _set_log_level() -> None:
    """Hide MLflow's and alembic's INFO lines, unless the user chose a level. mlflow may have been imported
    before us."""
    if os.environ["MLFLOW_LOGGING_LEVEL"] == MLFLOW_DEFAULTS["MLFLOW_LOGGING_LEVEL"]:
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)


def _make_absolute(tracking_uri: str) -> str:
    scheme = urlsplit(tracking_uri).scheme
    if scheme == "file" or not (scheme or tracking_uri == "databricks"):
        raise ValueError(
            f"tracking_uri '{tracking_uri}' is a folder, which MLflow no longer supports; "
            "use sqlite:///FOLDER/mlflow.db or the address of a tracking server"
        )
    path = sqlite_path(tracking_uri)
    if path is None:
        return tracking_uri
    path.parent.mkdir(parents=True, exist_ok=True)
    return f"{SQLITE}{path}"


def _default_artifact_root(uri: str) -> str | None:
    path = sqlite_path(uri)
    return None if path is None else str(path.parent / "artifacts")
