"""Upload a model folder to MLflow: models from code with safetensors, never a pickle.

MLflow marks an upload as READY when it is complete. An incomplete upload names the process that makes it. It
is deleted if that process has ended, or after MAX_UPLOAD_SECONDS if the process ran on another machine; until
then another driver may still be working on it.

Importing this module loads pandas and mlflow.pyfunc (seconds), so import it only where a model is registered.
"""

import importlib.metadata
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelStatus
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array, Object, Property

from pipelines import process
from pipelines.finetune.models.architecture import (
    BUNDLE_FILE,
    is_adapter_alone,
    is_bundle,
    read_bundle,
    read_spec,
)
from pipelines.registry.store import hide_mlflow_warnings

with hide_mlflow_warnings():
    import mlflow.pyfunc

logger = logging.getLogger(__name__)

UPLOAD_DIGEST_TAG, PROCESS_TAG = "distributary.model_digest", "distributary.uploading"
MAX_UPLOAD_SECONDS = 6 * 3600.0
REQUIREMENTS = ("mlflow", "numpy", "pandas", "safetensors", "tokenizers", "torch", "transformers")
"""Packages that a process needs to load a model; pinned to the versions installed when it is registered."""
TURNS = Array(Object([Property("role", DataType.string), Property("content", DataType.string)]))
OUTPUTS = Schema([ColSpec(DataType.string, "prediction"), ColSpec(DataType.double, "score")])
SIGNATURE = ModelSignature(inputs=Schema([ColSpec(DataType.string, "text")]), outputs=OUTPUTS)
CHAT_SIGNATURE = ModelSignature(
    inputs=Schema(
        [ColSpec(TURNS, "messages", required=False), ColSpec(DataType.string, "text", required=False)]
    ),
    outputs=OUTPUTS,
)
"""Every row has messages, or a text of the user."""
BUNDLE_SIGNATURE = ModelSignature(
    inputs=Schema([*CHAT_SIGNATURE.inputs, ColSpec(DataType.string, "adapter")]), outputs=OUTPUTS
)
"""Every row names the adapter that predicts it too."""
VECTOR_SIGNATURE = ModelSignature(
    inputs=SIGNATURE.inputs, outputs=Schema([*OUTPUTS.inputs, ColSpec(Array(DataType.double), "embedding")])
)

LABELS = Array(Object([Property("label", DataType.string), Property("probability", DataType.double)]))
LABELS_SIGNATURE = ModelSignature(
    inputs=SIGNATURE.inputs, outputs=Schema([*OUTPUTS.inputs, ColSpec(LABELS, "labels")])
)


def find_complete_upload(run_id: str, digest: str) -> str | None:
    """Model id of this run's complete upload of these weights; None if there is none.

    Deletes abandoned uploads.
    """
    client = MlflowClient()
    run = client.get_run(run_id)
    uploads: list[LoggedModel] = client.search_logged_models(
        [run.info.experiment_id], f"source_run_id = '{run_id}'"
    )
    ours = [upload for upload in uploads if upload.tags.get(UPLOAD_DIGEST_TAG) == digest]
    for upload in ours:
        if upload.status != LoggedModelStatus.READY and _is_abandoned(upload):
            logger.warning(
                "run %s: deleting model %s, because its upload was interrupted", run_id, upload.model_id
            )
            client.delete_logged_model(upload.model_id)
    return next((str(upload.model_id) for upload in ours if upload.status == LoggedModelStatus.READY), None)


def upload_model(
    run_id: str, model_folder: Path, *, code: Path, input_example: Sequence[Any], digest: str
) -> str:
    """Upload the model and return its id.

    `code` is a script inside the `pipelines` package, which is uploaded with it. `input_example` has texts,
    or for a model of conversations lists of {role, content}.
    """
    package = next((parent for parent in Path(code).resolve().parents if parent.name == "pipelines"), None)
    if package is None:
        raise ValueError(
            f"{code} is not inside the pipelines package, so its imports cannot be uploaded with the model"
        )
    signature, example = _describe_inputs(model_folder, input_example)
    client = MlflowClient()
    # Created here, because MLflow would use the experiment of the active run, or else "Default", whose files
    # go to ./mlruns.
    created = client.create_logged_model(
        client.get_run(run_id).info.experiment_id,
        name="model",
        source_run_id=run_id,
        tags={UPLOAD_DIGEST_TAG: digest, PROCESS_TAG: process.identify_process()},
    )
    with hide_mlflow_warnings(), disable_bytecode():
        # Not mlflow.pyfunc.log_model: it needs an active run, which would change the status of the finished
        # run.
        Model.log(
            artifact_path=None,
            name="model",
            flavor=_PlainFlavor,
            validate_serving_input=False,
            run_id=run_id,
            model_id=created.model_id,
            python_model=str(code),
            code_paths=[str(package)],
            artifacts={"model": str(Path(model_folder).resolve())},
            signature=signature,
            input_example=example,
            pip_requirements=[
                f"{name}=={importlib.metadata.version(name)}" for name in _list_requirements(model_folder)
            ],
        )
    return str(created.model_id)


def _describe_inputs(model_folder: Path, input_example: Sequence[Any]) -> tuple[ModelSignature, pd.DataFrame]:
    if is_bundle(model_folder):
        names = list(read_bundle((model_folder / BUNDLE_FILE).read_bytes()))
        return BUNDLE_SIGNATURE, pd.DataFrame({"text": [*input_example][:1] * len(names), "adapter": names})
    spec = read_spec(model_folder)
    reads_messages = spec.chat is not None
    signature = CHAT_SIGNATURE if reads_messages else VECTOR_SIGNATURE if spec.retrieval else SIGNATURE
    signature = LABELS_SIGNATURE if spec.label_threshold is not None else signature
    return signature, pd.DataFrame({"messages" if reads_messages else "text": list(input_example)})


def _list_requirements(model_folder: Path) -> list[str]:
    """Names of packages; adapters apart from the weights of their base need PEFT too."""
    needs_peft = is_adapter_alone(model_folder) or is_bundle(model_folder)
    return sorted((*REQUIREMENTS, *(("peft",) if needs_peft else ())))


class _PlainFlavor:
    """MLflow's pyfunc flavor without a trial prediction.

    The trial would load torch in the driver, and only warn if it fails. The gate measures the same weights
    with the same `Predictor` before a version can become the champion.
    """

    @staticmethod
    def save_model(*, validate_serving_input: bool, **arguments: Any) -> None:
        mlflow.pyfunc.save_model(**arguments)


def _is_abandoned(upload: LoggedModel) -> bool:
    owner = upload.tags.get(PROCESS_TAG)
    # A process makes one upload at a time, so an earlier upload of this process has failed.
    if owner is not None and (owner == process.identify_process() or process.has_ended(owner)):
        return True
    return (
        upload.status == LoggedModelStatus.FAILED
        or time.time() - upload.creation_timestamp / 1000 > MAX_UPLOAD_SECONDS
    )


@contextmanager
def disable_bytecode() -> Iterator[None]:
    """MLflow runs the uploaded script in place.

    Without this, compiled files would become part of the model.
    """
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before
