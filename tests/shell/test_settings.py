"""The configuration: which layer wins, absolute paths, the settings of Spark and of the storage."""

import pytest

from jobs.run import STAGES
from jobs.shell.settings import load
from pipelines.dataset.mixing.rules import Mixture
from tests.shell.conftest import check_all


def test_later_layers_win_and_the_rest_stays(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("finetune: {seed: 7, num_epochs: 9.0}\n")
    overrides = ["finetune.num_epochs=1.5", "root=/elsewhere"]
    config = check_all(recipe="customer_service_long", file=file, overrides=overrides)["finetune"]
    assert (config.num_epochs, config.seed, config.optimization.head_learning_rate_factor) == (1.5, 7, 5.0)
    assert config.sequences == "/elsewhere/sequences"
    assert check_all(recipe="customer_service_long")["finetune"].num_epochs == 5.0


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


@pytest.mark.parametrize("is_file", [True, False])
def test_names_of_roles_are_added_to_those_known(tmp_path, is_file):
    file = tmp_path / "mine.yaml"
    file.write_text("dataset: {tokenizer: {chat: {roles: {bot: assistant}}}}\n")
    overrides = [] if is_file else ["dataset.tokenizer.chat.roles={bot: assistant}"]
    settings = load(file=file if is_file else None, overrides=overrides)
    roles = settings.section("dataset", STAGES["dataset"].Config).tokenizer.chat.roles
    assert roles == {"human": "user", "gpt": "assistant", "bot": "assistant"}


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


def test_null_takes_a_share_of_an_earlier_layer_back(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(
        "finetune: {mixture: {shares: {wiki: 0.3, web.zh: 0.1, old: 0.2}, max_sequences: {wiki: 7}}}"
    )
    given = ["finetune.mixture.shares.wiki=null", "finetune.mixture.shares={web.zh: 0.2, old: null}"]
    settings = load(file=file, overrides=[*given, "finetune.mixture.max_sequences.wiki=null"])
    mixture = settings.section("finetune", STAGES["finetune"].Config).mixture
    assert mixture == Mixture(shares={"web.zh": 0.2})
    assert mixture.shares.keys() == {"web.zh"}  # without wiki, which is not left out (share 0)
