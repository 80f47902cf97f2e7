"""Bundles in the registry: made once, with the way to the runs of their adapters, served by MLflow."""

import json
import re

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from jobs.shell.bundle_command import read_versions
from pipelines.dataset.tokenizer import train_bpe
from pipelines.finetune.models.adapter import Adapter
from pipelines.finetune.models.architecture import Architecture, read_bundle, read_spec
from pipelines.finetune.models.build import build_model
from pipelines.finetune.models.folder import save_model
from pipelines.registry.runs.lineage import read_lineage
from pipelines.registry.versions.bundle import register_bundle
from pipelines.registry.versions.resolve import resolve_model
from pipelines.scoring.predict import Predictor
from tests.finetune.test_adapter_kinds import move
from tests.registry.conftest import SCRIPT, aliases, register, versions

TEXTS = ["lost my card", "信用卡丢了", "card"]


def adapt(root, base, name, **fields):
    """A model folder with an adapter on `base`."""
    spec = read_spec(base)
    tokenizer = train_bpe(iter(["lost my card", "信用卡丢了"] * 2), vocab_size=280)
    architecture = Architecture(base=str(base), adapter=Adapter(rank=4, **fields))
    module = build_model(architecture, spec, vocab_size=tokenizer.get_vocab_size(), seed=len(name))
    save_model(move(module), tokenizer.to_str(), spec, root / name)
    return root / name


@pytest.fixture
def registered(new_run, model_folders, model_name, tmp_path):
    """Version 1: an adapter alone; version 2: one that is merged; version 3: one on another base."""
    kinds = {"alone": {"kind": "bottleneck"}, "merged": {"kind": "lora"}, "other": {"kind": "lora"}}
    folders, runs = {}, {}
    for number, (name, fields) in enumerate(kinds.items()):
        base = model_folders[number == 2]
        folders[name], runs[name] = adapt(tmp_path, base, name, **fields), new_run(name)
        assert register(runs[name], folders[name], model_name) == number + 1
    return folders, runs


def bundle(model_name, experiment, **wanted):
    versions = {name: (model_name, version) for name, version in wanted.items()}
    return register_bundle(versions, f"{model_name} (desk)", experiment=experiment, code=SCRIPT)


def test_a_bundle_is_made_once_and_names_the_runs_of_its_adapters(registered, experiment, model_name):
    _, runs = registered
    made = bundle(model_name, experiment, alone=1, merged="2")
    assert (made.version, made.is_new) == (1, True)
    again = bundle(model_name, experiment, merged=2, alone="1")
    assert (again.version, again.run_id, again.is_new) == (1, made.run_id, False)
    assert versions(f"{model_name} (desk)") == [1]
    assert aliases(f"{model_name} (desk)") == {"challenger": 1}

    lineage = read_lineage(made.run_id)
    assert {name: (each["run_id"], each["version"]) for name, each in lineage["adapters"].items()} == {
        "alone": (runs["alone"], 1),
        "merged": (runs["merged"], 2),
    }
    kept = json.loads(mlflow.artifacts.load_text(f"runs:/{runs['alone']}/lineage.json"))
    assert kept["bundles"] == [{"name": f"{model_name} (desk)", "version": 1}]
    assert "bundles" not in read_lineage(runs["other"])
    folder = resolve_model(f"{model_name} (desk)", 1).folder
    assert read_bundle((folder / "bundle.json").read_bytes()) == lineage["adapters"]
    assert "peft==" in (folder.parents[1] / "requirements.txt").read_text()

    client = MlflowClient()
    client.delete_tag(runs["alone"], f"distributary.bundle.{made.run_id}")  # as a kill would leave it
    client.delete_run(runs["merged"])  # takes no tags
    bundle(model_name, experiment, alone=1, merged=2)
    assert read_lineage(runs["alone"])["bundles"] == kept["bundles"]
    with pytest.raises(ValueError, match=rf"version \d of {model_name} is no bundle; .* name of their own"):
        register_bundle(
            {"a": (model_name, 1), "b": (model_name, 2)}, model_name, experiment=experiment, code=SCRIPT
        )

    more = bundle(model_name, experiment, alone=1, merged=2, again=2)
    assert (more.version, more.is_new) == (2, True)


def test_mlflow_serves_each_row_by_its_adapter(registered, experiment, model_name):
    folders, _ = registered
    bundle(model_name, experiment, alone=1, merged=2)
    served = mlflow.pyfunc.load_model(f"models:/{model_name} (desk)/1")
    wanted = ["merged", "alone", "merged"]
    found = served.predict(pd.DataFrame({"text": TEXTS, "adapter": wanted}))
    for name in ("alone", "merged"):
        mine = [row for row, each in enumerate(wanted) if each == name]
        expected = Predictor.load(folders[name]).predict([TEXTS[row] for row in mine])
        assert [found["prediction"][row] for row in mine] == [each.prediction for each in expected]
        # The merged version was rounded when it was merged; the bundle has the adapter as it was trained.
        assert [found["score"][row] for row in mine] == pytest.approx(
            [each.score for each in expected], abs=1e-5
        )
    with pytest.raises(
        MlflowException, match=r"row 1: there is no adapter 'mood'; take one of alone, merged"
    ):
        served.predict(pd.DataFrame({"text": TEXTS, "adapter": ["alone", "mood", "alone"]}))
    with pytest.raises(MlflowException, match="adapter"):
        served.predict(pd.DataFrame({"text": TEXTS}))


def test_versions_that_do_not_go_together_are_refused(
    registered, experiment, model_name, new_run, model_folders
):
    with pytest.raises(ValueError, match=r"models 'alone' and 'other' belong to different bases"):
        bundle(model_name, experiment, alone=1, other=3)
    failed = MlflowClient().search_runs(
        [MlflowClient().get_experiment_by_name(experiment).experiment_id], "attributes.status = 'FAILED'"
    )
    assert [run.data.tags["mlflow.runName"] for run in failed] == ["bundle"]
    assert register(new_run("whole"), model_folders[0], model_name) == 4
    with pytest.raises(ValueError, match=r"has no adapter; give model folders that were trained with one"):
        bundle(model_name, experiment, alone=1, whole=4)
    with pytest.raises(ValueError, match=r"at least 2 adapters, got 1; register one by itself"):
        bundle(model_name, experiment, alone=1)
    with pytest.raises(LookupError, match=r"has no version or alias '9'"):
        bundle(model_name, experiment, alone=1, missing=9)
    assert versions(f"{model_name} (desk)") == []


def test_versions_are_given_by_number_or_alias():
    assert read_versions(["a=tickets/3", "b=main.ml.tickets@champion", "c=a b/1"]) == {
        "a": ("tickets", "3"),
        "b": ("main.ml.tickets", "champion"),
        "c": ("a b", "1"),
    }
    for text in ("tickets/3", "a=tickets", "../a=tickets/3", "a=@champion", "=tickets/3"):
        with pytest.raises(ValueError, match=f"NAME=MODEL@ALIAS, .* got '{re.escape(text)}'"):
            read_versions([text])
    with pytest.raises(ValueError, match=r"--adapter a is given twice"):
        read_versions(["a=t/1", "a=t/2"])
