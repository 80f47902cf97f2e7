"""Where runs and models are kept: any MLflow tracking URI. The artifacts of a SQLite store lie beside it."""

import fcntl
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

from pipelines.paths import without_credentials
from pipelines.registry import MLFLOW_DEFAULTS
from pipelines.registry.paths import SQLITE, sqlite_path
from pipelines.stores import export_to_mlflow

_artifact_roots: dict[str, str] = {}
"""Tracking URI -> root for artifacts of new experiments. MLflow has no setting for it on the client's
side."""


SERVERS = ("http", "https", "postgresql", "mysql", "mssql")
"""Schemes of stores that are asked at the first connection. Databricks has no quick question."""
_answered: set[str] = set()
"""Tracking URIs that have answered this process."""


def connect(tracking_uri: str, artifact_root: str | None = None) -> None:
    """Point MLflow at `tracking_uri` (runs and models) and create the SQLite store if it is missing.

    `artifact_root` (folder or URI): where new experiments keep their files. None = `artifacts` beside a
    SQLite store, the server's own choice for a tracking server. Call it on the driver only. Several drivers
    of one machine may create one SQLite store at the same time. Calling it again with the same URI costs
    next to nothing.

    Raises ValueError for a URI without a scheme and for a folder, which MLflow no longer supports;
    RuntimeError with the command to run if a database has the schema of an older MLflow.
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
    is_asked = urlsplit(uri).scheme.partition("+")[0] in SERVERS and uri not in _answered
    if sqlite_path(uri) is not None or is_asked:
        _require_answer(uri)
        _answered.add(uri)


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


def _require_answer(uri: str) -> None:
    """The first request opens or creates the database, or logs in: a fault shows here, and not in the middle
    of a training.
    """
    try:
        with hide_mlflow_warnings(), _one_at_a_time(sqlite_path(uri)):
            mlflow.MlflowClient().search_experiments(max_results=1)
    except MlflowException as error:
        if "out-of-date database schema" not in str(error):
            raise
        shown = without_credentials(uri)
        raise RuntimeError(
            f"{shown}: out-of-date database schema, written by an older MLflow than {mlflow.__version__}; "
            f"back up the database, then run: mlflow db upgrade {shown}"
        ) from error


@contextmanager
def _one_at_a_time(database: Path | None) -> Iterator[None]:
    """Keep other processes of this machine waiting that open the same SQLite store: the migrations of two
    that create it would meet, and one of them would fail.
    """
    if database is None:
        yield
        return
    folder = os.open(database.parent, os.O_RDONLY)  # its lock leaves no file behind
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


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
