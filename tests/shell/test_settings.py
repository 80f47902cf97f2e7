"""The configuration: layers, checks, messages, absolute paths."""

import re
from dataclasses import fields, is_dataclass

import pytest
import yaml
from omegaconf import OmegaConf
from pydantic import model_validator

from jobs.run import STAGES
from jobs.shell.layers import CONF, list_overlays
from jobs.shell.settings import Section, load
from pipelines.corpus.source import Source
from pipelines.stores import S3, Hdfs, Stores

BASE = (CONF / "base.yaml").read_text(encoding="utf-8")


def check_all(**layers):
    return load(**layers).sections({name: stage.Config for name, stage in STAGES.items()})


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
def test_every_recipe_passes_all_checks(recipe):
    assert check_all(recipe=recipe)["corpus"].sources


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


def test_every_key_of_a_source_has_a_comment():
    explained = re.findall(r"^  # [- ] (\w+): .*?   *# +\S", BASE, re.MULTILINE)
    assert explained == [field.name for field in fields(Source)]


def test_later_layers_win_and_the_rest_stays(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("finetune: {seed: 7, num_epochs: 9.0}\n")
    overrides = ["finetune.num_epochs=1.5", "root=/elsewhere"]
    config = check_all(recipe="customer_service_long", file=file, overrides=overrides)["finetune"]
    assert (config.num_epochs, config.seed, config.optimization.head_learning_rate_factor) == (1.5, 7, 5.0)
    assert config.sequences == "/elsewhere/sequences"
    assert check_all(recipe="customer_service_long")["finetune"].num_epochs == 5.0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("finetune.num_epoch=3", "unknown key finetune.num_epoch; did you mean num_epochs"),
        (
            "finetune.optimization.learning_rat=1e-4",
            "unknown key finetune.optimization.learning_rat; did you mean learning_rate",
        ),
        ("finetuen.seed=3", "unknown key finetuen; did you mean finetune"),
        ("tracking.url=x", "unknown key tracking.url; did you mean uri"),
        ("finetune.global_batch=many", "finetune.global_batch should be a valid integer, got 'many'"),
        ("finetune.global_batch=0", "finetune.global_batch should be greater than or equal to 1, got 0"),
        ("finetune.num_epochs=-1", "finetune.num_epochs should be greater than 0, got -1"),
        ("finetune.optimization.warmup_fraction=2", r"warmup_fraction must be in \[0, 1\], got 2"),
        (
            "dataset.task=translation",
            "dataset.task should be 'classification' or 'language_modelling', got 'translation'",
        ),
        ("dataset.packing.sequence_length=1", "sequence_length must be at least 2 tokens, got 1"),
        (
            "corpus.sources=[{name: a, path: b, format: xml}]",
            "corpus.sources.0.* format must be one of csv, jsonl, .*text.*, got 'xml'",
        ),
        ("scoring.split=", "scoring.split should be"),
        ("justakey", "an override is key=value"),
        ("registry.min_gain=.nan", "registry.min_gain should be a finite number, got nan"),
        ("finetune.num_epochs=.inf", "finetune.num_epochs should be a finite number, got inf"),
        (
            "finetune.optimization.weight_decay=.nan",
            "finetune.optimization.weight_decay should be a finite number, got nan",
        ),
        (
            "finetune.optimization.betas=[0.9,.inf]",
            "finetune.optimization.betas.1 should be a finite number, got inf",
        ),
        ("scoring=", "scoring must hold keys, such as scoring.name, got None; give it keys or leave it out"),
        ("scoring=3", "scoring must hold keys, such as scoring.name, got 3"),
        ("finetune.optimization=[1]", r"finetune.optimization must hold keys, .*, got \[1\]"),
        ("finetune.model=", "finetune.model must hold keys, such as finetune.model.base, got None"),
        (
            "corpus.sources.0.path=x",
            r"corpus.sources is a list, not keys \(0\); give the whole list: corpus.sources=\[...\]",
        ),
        ("corpus.sources=", "corpus.sources should be a list, got None"),
        ("corpus.sources=[3]", "corpus.sources.0 should be a mapping of keys, got 3"),
        (
            "corpus.sources=[{name: a",
            "corpus.sources is not a YAML value: .*; quote it or correct its brackets",
        ),
        ("corpus.sources=[{name: a, path: b}]", "corpus.sources.0.format is missing"),
        (
            "corpus.sources=[{name: a, path: b, format: csv, metadta: {}}]",
            "unknown key corpus.sources.0.metadta; did you mean metadata",
        ),
        (
            "corpus.sources=[{name: a, path: b, format: text, splts: {}}]",
            "unknown key corpus.sources.0.splts; did you mean splits",
        ),
        ("finetune.effectiv=x", "unknown key finetune.effectiv(?!.*did you mean effective)"),
        ("root=", "root must be text and not empty, got None; set root=TEXT"),
        ("recipe=7", "recipe must be text and not empty, got 7"),
        (
            "root='${oc.env'",
            "root: no viable alternative at input .*; set the variable, or correct or override the key",
        ),
        ("spark.=3", "spark holds whole names, .*; got spark.: '3'"),
        (
            "spark={driver.memory: 4g}",
            "spark holds whole names, .* such as spark.driver.memory: 4g; got driver.memory: '4g'",
        ),
        ("spark={spark.driver: {memory: 4g}}", "spark holds whole names, each with one value"),
        (
            "spark={spark.driver.memory: null}",
            "configuration: spark.driver.memory should be a valid string, got None",
        ),
        (
            "root=${oc.env:NO_SUCH_VARIABLE}",
            "root: .*NO_SUCH_VARIABLE.*; set the variable, or correct or override",
        ),
    ],
)
def test_a_fault_names_key_value_and_rule(override, message):
    with pytest.raises(ValueError, match=message):
        check_all(overrides=[override])


def test_faults_of_all_sections_appear_once():
    with pytest.raises(ValueError, match=r"corpus.rules.*; finetune.seed.*; finetune.num_ranks") as raised:
        check_all(
            overrides=[
                "finetune.num_ranks=0",
                "finetune.seed=-1",
                "corpus.rules.min_char=1",
                "tracking.url=x",
            ]
        )
    assert str(raised.value).count("tracking.url") == 1


def test_a_fault_of_a_whole_section_names_it():
    class Whole(Section, extra="ignore"):
        @model_validator(mode="after")
        def refuse(self):
            raise ValueError("must be otherwise")

    with pytest.raises(ValueError, match=r"^configuration: corpus must be otherwise$"):
        load().section("corpus", Whole)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "corpus:\n  sources: []\n rules: {}\n",
            r"mine\.yaml, line 3, column 2: did not find expected key; .* indented by spaces",
        ),
        (
            "finetune:\n\tseed: 1\n",
            r"mine\.yaml, line 2, column 1: found character that cannot start any token",
        ),
        ("finetune:\n  seed: 1\n  seed: 2\n", r"mine\.yaml, line 3, column 3: .*duplicate key"),
        (
            "finetune:\n  # seed: 1\n",
            r"mine\.yaml: finetune must hold keys, such as finetune.sequences, got None; .* leave it out",
        ),
        ("- a\n", r"mine\.yaml holds a list; a configuration has sections and keys"),
        ("3\n", r"mine\.yaml holds a single value; a configuration has sections and keys"),
        ("finetune: {seed: \xff}\n", r"mine\.yaml is not YAML in UTF-8"),
    ],
)
def test_a_fault_in_a_file_names_its_place(tmp_path, text, message):
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=message):
        load(file=file)


@pytest.mark.parametrize(
    ("override", "name", "value"),
    [
        ("spark.driver.memory=4g", "spark.driver.memory", "4g"),
        ("spark.spark.driver.memory=4g", "spark.driver.memory", "4g"),
        ("spark.sql.shuffle.partitions=200", "spark.sql.shuffle.partitions", "200"),
        ("spark.ui.enabled=true", "spark.ui.enabled", "true"),
        ('spark.ui.enabled="true"', "spark.ui.enabled", "true"),
        (
            "spark.driver.extraJavaOptions=-Da=b -Dc={d: e}",
            "spark.driver.extraJavaOptions",
            "-Da=b -Dc={d: e}",
        ),
        ("spark={spark.task.cpus: 2}", "spark.task.cpus", "2"),
        ("spark={spark.speculation: true}", "spark.speculation", "true"),
        ("spark={spark.memory.fraction: 0.6}", "spark.memory.fraction", "0.6"),
    ],
)
def test_spark_settings_are_text_under_whole_names(override, name, value):
    settings = load(overrides=[override])
    assert settings.tree["spark"] == {**load().tree["spark"], name: value}
    assert settings.section("corpus", STAGES["corpus"].Config).spark[name] == value


def test_the_later_spark_setting_wins():
    assert (
        load(overrides=["spark.task.cpus=2", "spark={spark.task.cpus: 3}"]).tree["spark"]["spark.task.cpus"]
        == "3"
    )
    assert (
        load(overrides=["spark={spark.task.cpus: 3}", "spark.task.cpus=2"]).tree["spark"]["spark.task.cpus"]
        == "2"
    )


def test_scientific_notation_is_a_number():
    assert (
        check_all(overrides=["finetune.optimization.learning_rate=1e-4"])[
            "finetune"
        ].optimization.learning_rate
        == 1e-4
    )


def test_local_paths_become_absolute_when_settings_load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = load(overrides=["scoring.predictions=s3://bucket/predictions"])
    configs = settings.sections({name: stage.Config for name, stage in STAGES.items()})
    root = f"{tmp_path}/warehouse/default"
    assert settings.root == root
    corpus, finetune, scoring = configs["corpus"], configs["finetune"], configs["scoring"]
    assert (corpus.documents, corpus.quarantine) == (f"{root}/documents", f"{root}/quarantine")
    assert (finetune.folder, finetune.tokenizers) == (f"{root}/finetune", f"{root}/tokenizers")
    assert (configs["registry"].trainings, scoring.predictions) == (
        f"{root}/finetune",
        "s3://bucket/predictions",
    )
    assert "documents: warehouse/default/documents" in settings.printed  # as written


def test_every_table_and_folder_key_is_a_path():
    names = {"documents", "quarantine", "signals", "sequences", "tokenizers", "folder", "trainings"}
    names |= {"predictions"}
    configs = check_all(overrides=["root=somewhere"])
    found = {
        (stage, name): getattr(config, name)
        for stage, config in configs.items()
        for name in names & set(type(config).model_fields)
    }
    assert len(found) == 13
    assert {place for place, path in found.items() if not path.startswith("/")} == set()


def test_a_path_that_delta_cannot_use_names_its_key():
    with pytest.raises(ValueError, match=r"corpus.documents path '.*a#b': '#' cannot stand in the path"):
        check_all(overrides=["corpus.documents=/data/a#b"])


@pytest.mark.parametrize("file", [True, False])
def test_unknown_keys_are_found_without_the_model_of_their_section(tmp_path, file):
    given = "scoring: {alia: x}\nfinetune: {model: {config: {any_key: 1}}}\nspark: {spark.any.key: 1}\n"
    (tmp_path / "mine.yaml").write_text(given)
    layers = {"file": tmp_path / "mine.yaml"} if file else {"overrides": ["scoring={alia: x}"]}
    settings = load(**layers)
    assert list(settings.unknown) == ["scoring.alia"]
    with pytest.raises(ValueError, match=r"unknown key scoring.alia; did you mean alias\?$"):
        settings.section("dataset", STAGES["dataset"].Config)


def test_options_in_the_root_are_refused():
    # Table names are appended to the root, so options would end up in the middle of every path.
    with pytest.raises(ValueError, match=r"corpus.documents must not have options .*set storage.s3.endpoint"):
        check_all(overrides=["root=s3://bucket/data?endpoint_override=store:9000"])


def test_a_password_in_the_tracking_address_is_refused_and_not_repeated():
    with pytest.raises(
        ValueError, match=r"tracking.uri must not hold a password .*TRACKING_PASSWORD"
    ) as raised:
        check_all(overrides=["tracking.uri=https://me:hunter2@mlflow.example"])
    assert "hunter2" not in str(raised.value)


def test_keys_of_the_storage_are_checked_and_never_printed(monkeypatch):
    monkeypatch.setenv("STORE_KEY", "AKIA1234")
    monkeypatch.setenv("STORE_SECRET", "hunter22hunter")
    keys = ["credentials=keys", "access_key=${oc.env:STORE_KEY}", "secret_key=${oc.env:STORE_SECRET}"]
    settings = load(overrides=[f"storage.s3.{key}" for key in keys])
    assert (settings.stores.s3.access_key, settings.stores.s3.secret_key) == ("AKIA1234", "hunter22hunter")
    for text in (
        settings.printed,
        repr(settings.stores),
        repr(settings.section("corpus", STAGES["corpus"].Config)),
    ):
        assert "AKIA1234" not in text
        assert "hunter22hunter" not in text
    with pytest.raises(ValueError, match=r"storage.s3 credentials is keys, .* not both set"):
        load(overrides=["storage.s3.credentials=keys"]).section("corpus", STAGES["corpus"].Config)
    with pytest.raises(ValueError, match=r"unknown key storage.s3.endpont"):
        load(overrides=["storage.s3.endpont=http://a:1"]).section("corpus", STAGES["corpus"].Config)
