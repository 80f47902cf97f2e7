import pytest
from omegaconf import OmegaConf

from jobs.config import CONF, HIDDEN, load, names, redact
from jobs.run import STAGES


def checked(**layers):
    settings = load(**layers)
    return {name: settings.section(name, stage.Config) for name, stage in STAGES.items()}


@pytest.mark.parametrize("recipe", names("recipe"))
def test_every_recipe_is_whole_and_right(recipe):
    assert checked(recipe=recipe)["corpus"].sources


@pytest.mark.parametrize("env", names("env"))
def test_every_environment_is_right(env, monkeypatch):
    monkeypatch.setenv("DISTRIBUTARY_ROOT", "s3a://bucket/distributary")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    monkeypatch.setenv("DISTRIBUTARY_SCHEMA", "main.nlp")
    assert checked(env=env, recipe="customer_service")["dataset"].documents.endswith("/customer_service/documents")


def test_base_has_every_key_of_every_job_with_a_comment():
    base = OmegaConf.to_container(OmegaConf.load(CONF / "base.yaml"))
    for name, stage in STAGES.items():
        assert set(base[name]) == set(stage.Config.model_fields) - {"spark", "tracking", "effective"}


def test_later_layers_win_and_an_extended_recipe_keeps_the_rest(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("finetune: {seed: 7, num_epochs: 9.0}\n")
    overrides = ["finetune.num_epochs=1.5", "root=/elsewhere"]
    config = checked(recipe="customer_service_long", file=file, overrides=overrides)["finetune"]
    assert (config.num_epochs, config.seed, config.optimization.head_learning_rate_factor) == (1.5, 7, 5.0)
    assert config.sequences == "/elsewhere/sequences"
    assert checked(recipe="customer_service_long")["finetune"].num_epochs == 5.0


@pytest.mark.parametrize(("override", "message"), [
    ("finetune.num_epoch=3", "unknown key finetune.num_epoch; did you mean num_epochs"),
    ("finetune.optimization.learning_rat=1e-4", "unknown key finetune.optimization.learning_rat; did you mean learning_rate"),
    ("finetuen.seed=3", "unknown key finetuen; did you mean finetune"),
    ("tracking.url=x", "unknown key tracking.url; did you mean uri"),
    ("finetune.global_batch=many", "finetune.global_batch should be a valid integer, got 'many'"),
    ("finetune.global_batch=0", "finetune.global_batch should be greater than or equal to 1, got 0"),
    ("finetune.num_epochs=-1", "finetune.num_epochs should be greater than 0, got -1"),
    ("finetune.optimization.warmup_fraction=2", r"warmup_fraction must be in \[0, 1\], got 2"),
    ("dataset.task=translation", "dataset.task should be 'classification' or 'language_modelling', got 'translation'"),
    ("dataset.packing.sequence_length=1", "sequence_length must be at least 2 tokens, got 1"),
    ("corpus.sources=[{name: a, path: b, format: xml}]", "format .*should be 'csv', 'jsonl' or 'text', got 'xml'"),
    ("scoring.split=", "scoring.split should be"),
    ("justakey", "an override is key=value"),
    ("root=${oc.env:NO_SUCH_VARIABLE}", "NO_SUCH_VARIABLE.*; set the variable or override the key"),
])
def test_a_fault_names_key_value_and_rule(override, message):
    with pytest.raises(ValueError, match=message):
        checked(overrides=[override])


def test_all_faults_are_told_at_once():
    with pytest.raises(ValueError, match=r"finetune.seed.*; finetune.num_ranks"):
        checked(overrides=["finetune.num_ranks=0", "finetune.seed=-1"])


def test_scientific_notation_is_a_number():
    assert checked(overrides=["finetune.optimization.learning_rate=1e-4"])["finetune"].optimization.learning_rate == 1e-4


def test_secrets_are_not_printed(monkeypatch):
    monkeypatch.setenv("MLFLOW_DB_PASSWORD", "hunter2")
    monkeypatch.setenv("STORE_TOKEN", "hunter3")
    keys = 'spark.hadoop.fs.s3a.secret.key: hunter4, spark.hadoop.fs.s3a.access.key: "${oc.env:MLFLOW_DB_PASSWORD}"'
    settings = load(overrides=["tracking.uri=postgresql://me:hunter1@host/db", "tracking.experiment=${oc.env:STORE_TOKEN}",
                               f"spark={{{keys}}}"])
    assert "hunter" not in settings.printed
    assert "postgresql://[redacted]@host/db" in settings.printed
    assert settings.section("finetune", STAGES["finetune"].Config).tracking.uri == "postgresql://me:hunter1@host/db"
    assert "hunter" not in settings.section("finetune", STAGES["finetune"].Config).effective


@pytest.mark.parametrize(("key", "hidden"), [
    ("api_key", True), ("db_password", True), ("token", True), ("spark.my.secret.key", True),
    ("spark.hadoop.fs.azure.account.key.me", True), ("fs.s3a.access.key", True), ("fs.azure.sas.fixed.token.c.a", True),
                                             ("tokenizer", False), ("max_tokens", False), ("tokens", False), ("key", False),
])
def test_redaction_goes_by_the_name_of_the_key(key, hidden):
    assert redact({key: "value"})[key] == (HIDDEN if hidden else "value")
