"""Register the model of a run: one model version per run and weights.

A call that was killed can be repeated.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipelines.registry.runs.lineage import write_lineage
from pipelines.registry.store import require_connection
from pipelines.registry.versions.aliases import CHALLENGER
from pipelines.registry.versions.find import DIGEST_TAG, find_versions_of_run, read_aliases
from pipelines.registry.versions.upload import find_complete_upload, upload_model
from pipelines.storage import folder_digest

logger = logging.getLogger(__name__)


def register_model(
    run_id: str, model_folder: Path, name: str, *, code: Path, input_example: Sequence[Any]
) -> int:
    """The version of `name` with this run's model, with the alias `challenger`; it is created only once.

    Killed at any point and called again, it continues: a version with this run and these weights is returned,
    a complete upload is registered, an incomplete upload of a dead driver is deleted. Two drivers that
    register one model at the same time agree on the smaller version. `code` is the models-from-code script
    inside the `pipelines` package; `input_example` is that of upload_model. The alias only moves forward:
    registering an old run again does not make it the challenger. The run's lineage names the version.
    """
    require_connection()
    client = MlflowClient()
    digest = folder_digest(model_folder)
    version = _find_ready_version(name, run_id, digest)
    if version is None:
        model_id = find_complete_upload(run_id, digest) or upload_model(
            run_id, model_folder, code=code, input_example=input_example, digest=digest
        )
        version = _create_version(client, name, run_id, model_id, digest)
        logger.info("registered %s version %d from run %s", name, version, run_id)
    else:
        logger.info("%s version %d already contains the model of run %s", name, version, run_id)
    if version > read_aliases(name).get(CHALLENGER, 0):
        client.set_registered_model_alias(name, CHALLENGER, str(version))
    write_lineage(run_id)
    return version


def _find_ready_version(name: str, run_id: str, digest: str) -> int | None:
    for version in find_versions_of_run(name, run_id):
        if version.tags.get(DIGEST_TAG) == digest and version.status == "READY":
            return int(version.version)
    return None


def _create_version(client: MlflowClient, name: str, run_id: str, model_id: str, digest: str) -> int:
    """Create a version.

    If another driver created one of the same model first, delete ours and return the other.
    """
    _ensure_registered_model(client, name)
    created = int(
        client.create_model_version(
            name, source=f"models:/{model_id}", run_id=run_id, model_id=model_id, tags={DIGEST_TAG: digest}
        ).version
    )
    first = _find_ready_version(name, run_id, digest) or created
    if first < created:
        client.delete_model_version(name, str(created))
        logger.warning(
            "%s version %d contains the same model and came first; version %d is deleted",
            name,
            first,
            created,
        )
    return min(first, created)


def _ensure_registered_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
