"""A model folder into MLflow, once: models from code with safetensors, never a pickle. An upload is complete or not there.

An upload that is not complete names the process that makes it. It is deleted if that process is gone, and otherwise, where nobody
can look, after hours; until then it may be another driver's that is still at it.
"""

import importlib.metadata
import logging
import time
from collections.abc import Sequence
from pathlib import Path

from pipelines import process
from pipelines.registry import store  # before mlflow: switches its noise off

# isort: split
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelStatus
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, Schema

with store.unwarned():
    import mlflow.pyfunc

logger = logging.getLogger(__name__)

DIGEST_TAG, PROCESS_TAG = "distributary.model_digest", "distributary.uploading"
MAX_UPLOAD_SECONDS = 6 * 3600.0
REQUIREMENTS = ("mlflow", "numpy", "pandas", "safetensors", "tokenizers", "torch", "transformers")
"""What a process that loads a model needs; pinned to what is installed when it is registered."""
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec("string", "text")]),
    outputs=Schema([ColSpec("string", "prediction"), ColSpec("double", "score")]),
)


def complete_upload(run_id: str, digest: str) -> str | None:
    """Model id of the complete upload of these weights by this run; what was cut off is deleted."""
    client = MlflowClient()
    run = client.get_run(run_id)
    uploads: list[LoggedModel] = client.search_logged_models(
        [run.info.experiment_id], f"source_run_id = '{run_id}'"
    )
    ours = [upload for upload in uploads if upload.tags.get(DIGEST_TAG) == digest]
    for upload in ours:
        if upload.status != LoggedModelStatus.READY and _is_cut_off(upload):
            logger.warning("run %s: deleting model %s, whose upload was cut off", run_id, upload.model_id)
            client.delete_logged_model(upload.model_id)
    return next((str(upload.model_id) for upload in ours if upload.status == LoggedModelStatus.READY), None)


def upload(run_id: str, model_folder: Path, *, code: Path, input_example: Sequence[str], digest: str) -> str:
    """Model id of a new upload. `code` is the models-from-code script inside the `pipelines` package, which travels along."""
    package = next((parent for parent in Path(code).resolve().parents if parent.name == "pipelines"), None)
    if package is None:
        raise ValueError(
            f"{code} is not inside the pipelines package, so its imports could not travel with the model"
        )
    client = MlflowClient()
    # Made by us: MLflow would put it into the experiment of the active run, or else into "Default", whose files go to ./mlruns.
    made = client.create_logged_model(
        client.get_run(run_id).info.experiment_id,
        name="model",
        source_run_id=run_id,
        tags={DIGEST_TAG: digest, PROCESS_TAG: process.here()},
    )
    with store.unwarned(), store.no_bytecode():
        # Model.log and not mlflow.pyfunc.log_model: the latter needs an active run, which would set the run's status anew.
        Model.log(
            artifact_path=None,
            name="model",
            flavor=mlflow.pyfunc,
            run_id=run_id,
            model_id=made.model_id,
            python_model=str(code),
            code_paths=[str(package)],
            artifacts={"model": str(Path(model_folder).resolve())},
            signature=SIGNATURE,
            input_example=pd.DataFrame({"text": list(input_example)}),
            pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in REQUIREMENTS],
        )
    return str(made.model_id)


def _is_cut_off(upload: LoggedModel) -> bool:
    owner = upload.tags.get(PROCESS_TAG)
    # A process makes one upload at a time, so an earlier one of its own has failed.
    if owner is not None and (owner == process.here() or process.is_gone(owner)):
        return True
    return (
        upload.status == LoggedModelStatus.FAILED
        or time.time() - upload.creation_timestamp / 1000 > MAX_UPLOAD_SECONDS
    )
