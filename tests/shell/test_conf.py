"""The files of conf/: every key exists, has a comment, and passes the checks of its job."""

import re
from dataclasses import fields, is_dataclass

import pytest
import yaml
from omegaconf import OmegaConf

from jobs.run import STAGES
from jobs.shell.layers import CONF, list_overlays
from pipelines.corpus.source import Source
from pipelines.stores import S3, Hdfs, Stores
from tests.shell.conftest import check_all

BASE = (CONF / "base.yaml").read_text(encoding="utf-8")


def keys_of(node, prefix=""):
    """Every key of a YAML mapping as a dotted name, with its node and that of its value."""
    for key, value in node.value:
        yield f"{prefix}{key.value}", key, value
        if isinstance(value, yaml.MappingNode):
            yield from keys_of(value, f"{prefix}{key.value}.")


def value_types(kind, prefix):
    """Dotted name and type of every field that holds a dataclass, to any depth."""
    for name, inner in kind.items():
        if is_dataclass(inner):
            yield f"{prefix}.{name}", inner
            yield from value_types({field.name: field.type for field in fields(inner)}, f"{prefix}.{name}")


@pytest.mark.parametrize("recipe", list_overlays("recipe"))
def test_every_recipe_passes_all_checks(recipe, monkeypatch):
    for kind in ("ENCODER", "DECODER"):
        monkeypatch.setenv(f"DISTRIBUTARY_{kind}", "/models/mine")
    sections = check_all(recipe=recipe)
    assert sections["corpus"].sources
    assert sections["finetune"].model.start()
    for source in sections["corpus"].sources:
        assert (CONF.parent / source.path).exists(), f"{recipe} reads {source.path}"


@pytest.mark.parametrize(
    ("recipe", "kind"), [("customer_service_zh_encoder", "ENCODER"), ("answers_lora", "DECODER")]
)
def test_a_recipe_for_your_own_model_asks_for_it_once(recipe, kind, monkeypatch):
    monkeypatch.delenv(f"DISTRIBUTARY_{kind}", raising=False)
    with pytest.raises(ValueError, match=f"'DISTRIBUTARY_{kind}' not found\"; set the variable"):
        check_all(recipe=recipe)
    sections = check_all(recipe=recipe, overrides=["dataset.tokenizer.base=/models/mine"])
    assert sections["dataset"].tokenizer.base == sections["finetune"].model.base == "/models/mine"


@pytest.mark.parametrize("recipe", ["customer_service_zh", "answers"])
def test_a_recipe_from_scratch_trains_its_tokenizer_or_takes_one(recipe):
    sections = check_all(recipe=recipe)
    assert sections["finetune"].model.start() == "scratch"
    assert sections["finetune"].model.adapter.kind is None
    assert sections["dataset"].tokenizer.base is None
    taken = check_all(recipe=recipe, overrides=["dataset.tokenizer.base=/models/mine"])
    assert taken["finetune"].model.start() == "scratch"


@pytest.mark.parametrize("env", list_overlays("env"))
def test_every_environment_passes_all_checks(env, monkeypatch):
    monkeypatch.setenv("DISTRIBUTARY_ROOT", "s3a://bucket/distributary")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    monkeypatch.setenv("DISTRIBUTARY_SCHEMA", "main.nlp")
    assert check_all(env=env, recipe="customer_service")["dataset"].documents.endswith(
        "/customer_service/documents"
    )


@pytest.mark.parametrize("env", list_overlays("env"))
def test_environments_name_their_variables_on_top(env):
    text = (CONF / "env" / f"{env}.yaml").read_text(encoding="utf-8")
    needed = set(re.findall(r"oc\.env:(\w+)}", text))
    assert needed
    assert needed <= set(re.findall(r"[A-Z_]{5,}", text[: text.index("\nroot:")]))


def test_base_has_every_key_of_every_job():
    base = OmegaConf.load(CONF / "base.yaml")
    found = []
    for name, stage in STAGES.items():
        own = {
            key: field.annotation
            for key, field in stage.Config.model_fields.items()
            if key not in ("spark", "tracking", "storage", "effective")
        }
        assert set(base[name]) == set(own)
        for place, kind in value_types(own, name):
            found.append(place)
            assert set(OmegaConf.select(base, place)) == {field.name for field in fields(kind)}, place
    for place, kind in [("storage", Stores), *value_types({"s3": S3, "hdfs": Hdfs}, "storage")]:
        assert set(OmegaConf.select(base, place)) == {field.name for field in fields(kind)}, place
    assert {
        "corpus.rules",
        "dataset.tokenizer",
        "dataset.packing",
        "finetune.model",
        "finetune.optimization",
    } <= set(found)


def test_every_key_of_base_has_a_comment():
    lines = BASE.splitlines()
    # A mapping below a section is explained by its keys.
    leaves = [
        (name, key.start_mark.line)
        for name, key, value in keys_of(yaml.compose(BASE))
        if "." not in name or not isinstance(value, yaml.MappingNode) or value.flow_style
    ]
    assert {
        "root",
        "corpus",
        "finetune.seed",
        "finetune.model.config",
        "finetune.optimization.betas",
    } <= dict(leaves).keys()
    assert [name for name, line in leaves if not re.search(r" # \S", lines[line])] == []


def test_lines_fit_into_the_width_of_a_page():
    assert [line for line in BASE.splitlines() if len(line) > 110] == []


def test_every_key_of_a_source_has_a_comment():
    explained = re.findall(r"^  # [- ] (\w+): .*?   *# +\S", BASE, re.MULTILINE)
    assert explained == [field.name for field in fields(Source)]
