"""Faults in a configuration: each message names key, value, rule and file."""

import pytest
from pydantic import model_validator

from jobs.run import STAGES
from jobs.shell.settings import Section, load
from tests.shell.conftest import check_all


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
            "dataset.task should be 'chat' or 'classification' or .* or 'retrieval', got 'translation'",
        ),
        ("dataset.packing.sequence_length=1", "sequence_length must be at least 2 tokens, got 1"),
        (
            "corpus.sources=[{name: a, path: b, format: xml}]",
            "corpus.sources.0.* format must be one of csv, .*jsonl, .*text.*, got 'xml'",
        ),
        ("finetune.preference.loss=ppo", "finetune.preference.loss should be 'dpo' or 'orpo', got 'ppo'"),
        ("finetune.preference.beta=0", "beta must be greater than 0 and finite, got 0"),
        ("finetune.preference.label_smoothing=0.5", r"label_smoothing must be in \[0, 0.5\), got 0.5"),
        (
            "finetune.preference={loss: orpo, label_smoothing: 0.1}",
            "label_smoothing must be 0 with loss orpo, got 0.1; only dpo has it",
        ),
        ("finetune.preference.bta=0.2", "unknown key finetune.preference.bta; did you mean beta"),
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
            "spark holds whole names, each with one value, .* got spark.driver.memory: None",
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
