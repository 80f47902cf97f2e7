"""The registry with a real tiny model: a registered model loads anywhere, exists once, and its aliases move
correctly."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from pipelines.registry.runs.lineage import read_lineage
from pipelines.registry.versions import resolve
from pipelines.registry.versions.aliases import find_rival, promote, undo_promotion
from pipelines.registry.versions.register import register_model
from pipelines.registry.versions.resolve import resolve_model
from pipelines.storage import folder_digest
from tests.registry.conftest import aliases, register, versions


def test_a_registered_model_is_complete_and_not_pickled(new_run, model_folders, model_name, capfd):
    run_id = new_run()
    capfd.readouterr()
    assert register(run_id, model_folders[0], model_name) == 1
    assert capfd.readouterr() == ("", "")
    assert mlflow.get_run(run_id).info.status == "FINISHED"
    resolved = resolve_model(model_name, "challenger")
    assert (resolved.version, resolved.run_id, resolved.uri) == (1, run_id, f"models:/{model_name}/1")
    files = {path.name for path in resolved.folder.parents[1].rglob("*") if path.is_file()}
    assert {
        "MLmodel",
        "requirements.txt",
        "input_example.json",
        "serve.py",
        "model.safetensors",
        "model_spec.json",
    } <= files
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".pt", ".bin", ".pyc"))]
    requirements = (resolved.folder.parents[1] / "requirements.txt").read_text().split()
    assert f"mlflow=={mlflow.__version__}" in requirements
    assert all("==" in requirement for requirement in requirements)
    assert read_lineage(run_id)["model_versions"] == [{"name": model_name, "version": 1}]
    assert json.loads(mlflow.artifacts.load_text(f"runs:/{run_id}/lineage.json")) == read_lineage(run_id)


@pytest.mark.slow
def test_a_model_loads_without_the_project(new_run, model_folders, model_name, tmp_path):
    register(new_run(), model_folders[0], model_name)
    script = """if True:
        import json, os, sys, mlflow
        # In a development environment the project is installed in editable mode: by a path or by a finder.
        sys.path[:] = [entry for entry in sys.path if not os.path.isdir(os.path.join(entry, "pipelines"))]
        finders = [each for each in sys.meta_path if "editable" not in getattr(each, "__module__", "")]
        sys.meta_path[:] = finders
        try:
            import pipelines
            raise SystemExit("the project can be imported, so this test would prove nothing")
        except ModuleNotFoundError:
            pass
        mlflow.set_tracking_uri(sys.argv[1])
        model = mlflow.pyfunc.load_model(sys.argv[2])
        import pandas
        frame = model.predict(pandas.DataFrame({"text": ["lost my card", ""]}))
        import pipelines
        print(json.dumps({"rows": frame.to_dict("records"), "code": pipelines.__file__}))
    """
    command = [
        sys.executable,
        "-I",
        "-c",
        script,
        mlflow.get_tracking_uri(),
        f"models:/{model_name}@challenger",
    ]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    folder = resolve_model(model_name, "challenger").folder
    assert Path(answer["code"]).is_relative_to(folder.parents[1])
    from pipelines.scoring.predict import Predictor

    expected = Predictor.load(folder).predict(["lost my card", ""])
    assert [row["prediction"] for row in answer["rows"]] == [p.prediction for p in expected]
    assert [row["score"] for row in answer["rows"]] == pytest.approx([p.score for p in expected], abs=1e-5)


def test_registering_again_gives_the_same_version(new_run, model_folders, model_name):
    run_id = new_run()
    assert [register(run_id, model_folders[0], model_name) for _ in range(2)] == [1, 1]
    assert versions(model_name) == [1]


@pytest.mark.parametrize(
    "call",
    [
        "log_outputs",
        "create_registered_model",
        "create_model_version",
        "set_registered_model_alias",
        "log_dict",
    ],
)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_at_any_call_leaves_one_version(new_run, model_folders, model_name, monkeypatch, call, moment):
    run_id = new_run()
    real = getattr(MlflowClient, call)
    kills = []

    def killed(*args, **kwargs):
        if moment == "after":
            real(*args, **kwargs)
        kills.append(call)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, call, killed)
        with pytest.raises(KeyboardInterrupt):
            register(run_id, model_folders[0], model_name)
    assert kills == [call]
    assert register(run_id, model_folders[0], model_name) == 1
    assert versions(model_name) == [1]
    assert aliases(model_name) == {"challenger": 1}
    assert model_name in mlflow.artifacts.load_text(f"runs:/{run_id}/lineage.json")
    uploads = MlflowClient().search_logged_models(
        [mlflow.get_run(run_id).info.experiment_id], f"source_run_id = '{run_id}'"
    )
    assert [str(upload.status) for upload in uploads] == ["READY"]


def test_other_weights_are_another_version(new_run, model_folders, model_name):
    run_id = new_run()
    assert [register(run_id, folder, model_name) for folder in model_folders] == [1, 2]
    assert resolve_model(model_name, 1).folder != resolve_model(model_name, 2).folder


def test_aliases_move_forward_and_back(new_run, model_folders, model_name):
    runs = [new_run("abc"), new_run("abd")]
    first, second = (
        register(run_id, folder, model_name) for run_id, folder in zip(runs, model_folders, strict=True)
    )
    assert aliases(model_name) == {"challenger": 2}
    assert promote(model_name, first) is None
    assert (find_rival(model_name, first), find_rival(model_name, second)) == (None, first)
    assert promote(model_name, second) == first
    assert (
        find_rival(model_name, second) == first
    )  # measured again as champion, it still meets the one it replaced
    assert promote(model_name, second) == second  # repeated, as after a kill: nothing changes
    assert aliases(model_name) == {"challenger": 2, "champion": 2}
    assert undo_promotion(model_name) == first
    assert aliases(model_name)["champion"] == first
    with pytest.raises(LookupError, match=r"version 1 is the first champion.*promote another version"):
        undo_promotion(model_name)
    register(runs[0], model_folders[0], model_name)
    assert aliases(model_name)["challenger"] == second


def test_a_missing_version_is_named_with_the_existing(new_run, model_folders, model_name):
    with pytest.raises(LookupError, match=f"no registered model '{model_name}'; run: distributary registry"):
        resolve_model(model_name, "champion")
    register(new_run(), model_folders[0], model_name)
    with pytest.raises(
        LookupError, match=r"no version or alias 'champion'; aliases: challenger \(version 1\); versions: 1"
    ):
        resolve_model(model_name, "champion")
    with pytest.raises(LookupError, match="no version or alias '7'"):
        promote(model_name, 7)


def test_changed_files_are_refused(new_run, model_folders, model_name):
    register(new_run(), model_folders[0], model_name)
    spec = resolve_model(model_name, 1).folder / "model_spec.json"
    spec.write_text(spec.read_text().replace("lost_card", "lost_cars"))
    with pytest.raises(ValueError, match="files were changed or damaged"):
        resolve_model(model_name, 1)


def test_a_script_outside_the_package_is_refused(new_run, model_folders, model_name, tmp_path):
    with pytest.raises(ValueError, match="not inside the pipelines package"):
        register_model(
            new_run(), model_folders[0], model_name, code=tmp_path / "serve.py", input_example=["a"]
        )


def test_remote_files_are_downloaded_once(new_run, model_folders, model_name, monkeypatch, tmp_path):
    register(new_run(), model_folders[0], model_name)
    monkeypatch.setenv("DISTRIBUTARY_CACHE", str(tmp_path))
    monkeypatch.setattr(resolve, "_local_folder", lambda location: None)
    folder = resolve_model(model_name, 1).folder
    assert folder.is_relative_to(tmp_path)
    assert folder_digest(folder) == folder_digest(model_folders[0])
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", None)
    assert resolve_model(model_name, 1).folder == folder
    assert [path.name for path in (tmp_path / "models").iterdir() if path.name.startswith(".")] == []
