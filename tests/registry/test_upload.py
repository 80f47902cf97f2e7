"""Two drivers that register one model at once: neither destroys the other's work, and one version is left."""

import mlflow
import pytest
from mlflow import MlflowClient

from pipelines import process
from pipelines.registry.versions import upload
from pipelines.registry.versions.find import versions_of
from pipelines.storage import folder_digest
from tests.registry.conftest import aliases, other_process, register, versions

TELL = "print(process.here(), flush=True)"
ELSEWHERE = "another-boot/pid:[1] 7 1"


def begun(run_id, folder, owner):
    """An upload that `owner` has begun."""
    tags = {upload.DIGEST_TAG: folder_digest(folder)} | ({upload.PROCESS_TAG: owner} if owner else {})
    experiment = mlflow.get_run(run_id).info.experiment_id
    return MlflowClient().create_logged_model(experiment, name="model", source_run_id=run_id, tags=tags)


def uploads(run_id):
    found = MlflowClient().search_logged_models(
        [mlflow.get_run(run_id).info.experiment_id], f"source_run_id = '{run_id}'"
    )
    return {model.model_id: str(model.status) for model in found}


def test_the_upload_of_a_driver_at_work_is_left_alone_and_that_of_a_dead_one_deleted(
    new_run, model_folders, model_name
):
    run_id = new_run()
    with other_process(TELL) as (owner, driver):
        theirs = begun(run_id, model_folders[0], owner).model_id
        assert upload.complete_upload(run_id, folder_digest(model_folders[0])) is None
        assert uploads(run_id) == {theirs: "PENDING"}
        driver.kill()
        driver.wait()
    assert register(run_id, model_folders[0], model_name) == 1
    assert list(uploads(run_id).values()) == ["READY"]
    assert theirs not in uploads(run_id)


@pytest.mark.parametrize("owner", [ELSEWHERE, None])
def test_an_upload_that_nobody_here_can_look_after_is_deleted_after_hours(
    new_run, model_folders, monkeypatch, owner
):
    run_id = new_run()
    theirs = begun(run_id, model_folders[0], owner).model_id
    upload.complete_upload(run_id, folder_digest(model_folders[0]))
    assert uploads(run_id) == {theirs: "PENDING"}
    monkeypatch.setattr(upload, "MAX_UPLOAD_SECONDS", -1)  # as if hours had passed
    upload.complete_upload(run_id, folder_digest(model_folders[0]))
    assert uploads(run_id) == {}


def test_an_upload_that_failed_is_deleted(new_run, model_folders):
    run_id = new_run()
    MlflowClient().finalize_logged_model(begun(run_id, model_folders[0], ELSEWHERE).model_id, "FAILED")
    assert upload.complete_upload(run_id, folder_digest(model_folders[0])) is None
    assert uploads(run_id) == {}


def test_an_earlier_upload_of_this_process_has_failed(new_run, model_folders):
    run_id = new_run()
    begun(run_id, model_folders[0], process.here())
    upload.complete_upload(run_id, folder_digest(model_folders[0]))
    assert uploads(run_id) == {}


def test_the_second_of_two_drivers_takes_the_version_of_the_first(
    new_run, model_folders, model_name, monkeypatch
):
    create = MlflowClient.create_model_version

    def outrun(*args, **kwargs):
        create(*args, **kwargs)  # the other driver, between our look and our call
        return create(*args, **kwargs)

    monkeypatch.setattr(MlflowClient, "create_model_version", outrun)
    assert register(new_run(), model_folders[0], model_name) == 1
    assert versions(model_name) == [1]
    assert aliases(model_name) == {"challenger": 1}


def test_a_version_dropped_while_one_looks_is_not_there(new_run, model_folders, model_name, monkeypatch):
    run_id = new_run()
    for folder in model_folders:
        register(run_id, folder, model_name)
    before = MlflowClient().search_model_versions(f"name = '{model_name}'")
    MlflowClient().delete_model_version(model_name, "2")
    monkeypatch.setattr(MlflowClient, "search_model_versions", lambda *_, **__: before)
    assert [int(version.version) for version in versions_of(model_name, run_id)] == [1]
