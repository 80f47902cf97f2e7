"""Two drivers that register one model at the same time: no work is destroyed, and one version remains."""

import mlflow
import pytest
from mlflow import MlflowClient

from pipelines import process
from pipelines.registry.versions import upload
from pipelines.registry.versions.find import find_versions_of_run
from pipelines.storage import folder_digest
from tests.processes import other_process
from tests.registry.conftest import aliases, register, versions

PRINT_IDENTITY = "print(process.identify_process(), flush=True)"
ELSEWHERE = "another-boot/pid:[1] 7 1"


def begin_upload(run_id, folder, owner):
    """Begin an upload in the name of the process `owner`."""
    tags = {upload.UPLOAD_DIGEST_TAG: folder_digest(folder)} | ({upload.PROCESS_TAG: owner} if owner else {})
    experiment = mlflow.get_run(run_id).info.experiment_id
    return MlflowClient().create_logged_model(experiment, name="model", source_run_id=run_id, tags=tags)


def uploads(run_id):
    found = MlflowClient().search_logged_models(
        [mlflow.get_run(run_id).info.experiment_id], f"source_run_id = '{run_id}'"
    )
    return {model.model_id: str(model.status) for model in found}


def test_only_the_upload_of_a_dead_driver_is_deleted(new_run, model_folders, model_name):
    run_id = new_run()
    with other_process(PRINT_IDENTITY) as (owner, driver):
        theirs = begin_upload(run_id, model_folders[0], owner).model_id
        assert upload.find_complete_upload(run_id, folder_digest(model_folders[0])) is None
        assert uploads(run_id) == {theirs: "PENDING"}
        driver.kill()
        driver.wait()
    assert register(run_id, model_folders[0], model_name) == 1
    assert list(uploads(run_id).values()) == ["READY"]
    assert theirs not in uploads(run_id)


@pytest.mark.parametrize("owner", [ELSEWHERE, None])
def test_an_upload_of_an_unknown_driver_is_deleted_after_hours(new_run, model_folders, monkeypatch, owner):
    run_id = new_run()
    theirs = begin_upload(run_id, model_folders[0], owner).model_id
    upload.find_complete_upload(run_id, folder_digest(model_folders[0]))
    assert uploads(run_id) == {theirs: "PENDING"}
    monkeypatch.setattr(upload, "MAX_UPLOAD_SECONDS", -1)  # as if hours had passed
    upload.find_complete_upload(run_id, folder_digest(model_folders[0]))
    assert uploads(run_id) == {}


def test_a_failed_upload_is_deleted(new_run, model_folders):
    run_id = new_run()
    MlflowClient().finalize_logged_model(begin_upload(run_id, model_folders[0], ELSEWHERE).model_id, "FAILED")
    assert upload.find_complete_upload(run_id, folder_digest(model_folders[0])) is None
    assert uploads(run_id) == {}


def test_an_earlier_upload_of_this_process_is_deleted(new_run, model_folders):
    run_id = new_run()
    begin_upload(run_id, model_folders[0], process.identify_process())
    upload.find_complete_upload(run_id, folder_digest(model_folders[0]))
    assert uploads(run_id) == {}


def test_the_second_driver_uses_the_first_version(new_run, model_folders, model_name, monkeypatch):
    create = MlflowClient.create_model_version

    def create_twice(*args, **kwargs):
        create(*args, **kwargs)  # the other driver, between our search and our call
        return create(*args, **kwargs)

    monkeypatch.setattr(MlflowClient, "create_model_version", create_twice)
    assert register(new_run(), model_folders[0], model_name) == 1
    assert versions(model_name) == [1]
    assert aliases(model_name) == {"challenger": 1}


def test_a_version_deleted_during_the_search_is_skipped(new_run, model_folders, model_name, monkeypatch):
    run_id = new_run()
    for folder in model_folders:
        register(run_id, folder, model_name)
    before = MlflowClient().search_model_versions(f"name = '{model_name}'")
    MlflowClient().delete_model_version(model_name, "2")
    monkeypatch.setattr(MlflowClient, "search_model_versions", lambda *_, **__: before)
    assert [int(version.version) for version in find_versions_of_run(model_name, run_id)] == [1]
