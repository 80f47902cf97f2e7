"""Preferences through the five stages: pairs in English and Chinese, and a tiny model that learns with DPO
which answer is the better one."""

import json
from types import SimpleNamespace

import mlflow
import pandas as pd
import pytest

from jobs.run import STAGES
from jobs.shell.settings import load
from pipelines.dataset.trace import SequenceTrace
from pipelines.finetune.preference import PreferenceLoss
from pipelines.finetune.results import read_result
from pipelines.pin import pin
from pipelines.registry.store import connect
from pipelines.registry.versions.resolve import resolve_model
from pipelines.scoring.evaluate import compute_metric
from pipelines.tables import DOCUMENTS, PREDICTIONS, SEQUENCES
from tests.conftest import TEST_CONF
from tests.dataset.chat.conversations import END, decode, read_template, special_tokenizer
from tests.test_chat_flow import ANSWERS, MODEL, QUESTIONS

pytestmark = pytest.mark.slow

WORSE = ["I do not know.", "不知道"]
NUM_PAIRS = 60
LEFT_OUT = {
    "its chosen and rejected are equal": ("equal?", "the same", "the same"),
    "its prompt leaves no room for the responses": ("why? " * 200, "because", "why not"),
}


def write_pairs(file):
    with file.open("w", encoding="utf-8") as lines:
        for number in range(NUM_PAIRS):
            language = number % 2
            pair = (f"{QUESTIONS[language]} {number}", ANSWERS[language], WORSE[language])
            lines.write(to_line(pair, split=("train", "train", "train", "validation", "test")[number % 5]))
        for pair in LEFT_OUT.values():
            lines.write(to_line(pair, split="train"))


def to_line(pair, split):
    return json.dumps(dict(zip(("question", "better", "worse"), pair, strict=True)) | {"split": split}) + "\n"


@pytest.fixture(scope="module")
def preference(spark, tmp_path_factory):
    """The five stages run once: their configs and outcomes."""
    folder = tmp_path_factory.mktemp("preference")
    write_pairs(folder / "pairs.jsonl")
    base = folder / "base"
    base.mkdir()
    special_tokenizer().save(str(base / "tokenizer.json"))
    config = {"eos_token": END, "chat_template": read_template("chatml")}
    (base / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    source = {
        "name": "pairs",
        "path": str(folder / "pairs.jsonl"),
        "format": "jsonl",
        "parts": {"prompt": "question", "chosen": "better", "rejected": "worse"},
        "fields": {"split": "split"},
    }
    settings = load(
        overrides=[
            "recipe=preference",
            f"root={folder}/lake",
            f"tracking.uri=sqlite:///{folder}/mlflow.db",
            f"tracking.artifacts={folder}/artifacts",
            f"spark={json.dumps(TEST_CONF)}",
            f"corpus.sources={json.dumps([source])}",
            "corpus.rules.drop_duplicates_from=[]",
            "dataset.task=preference",
            f"dataset.tokenizer.base={base}",
            f"dataset.report={folder}/sequences.html",
            "dataset.packing={method: one_per_document, sequence_length: 160}",
            f"finetune.model.config={json.dumps(MODEL)}",
            "finetune.preference.beta=0.2",
            "finetune.optimization.learning_rate=0.003",
            "finetune.num_epochs=8.0",
            "finetune.global_batch=6",
            "finetune.num_ranks=1",
            "finetune.window_batches=1",
            "scoring.num_partitions=2",
        ]
    )
    configs = {name: settings.section(name, stage.Config) for name, stage in STAGES.items()}
    outcomes = {name: stage.main(configs[name]) for name, stage in STAGES.items()}
    return SimpleNamespace(folder=folder, settings=settings, configs=configs, outcomes=outcomes)


def test_every_pair_is_a_row_of_two_segments(spark, preference):
    tokenizer = special_tokenizer()
    documents = {
        row["doc_id"]: row for row in DOCUMENTS.read(spark, preference.configs["corpus"].documents).collect()
    }
    rows = SEQUENCES.read(spark, preference.configs["dataset"].sequences).collect()
    assert len(rows) == NUM_PAIRS
    for row in rows:
        one, other = row["segments"]
        assert one["doc_id"] == other["doc_id"]
        parts = {part["name"]: part["text"] for part in documents[one["doc_id"]]["parts"]}
        targets = [
            decode(tokenizer, row["input_ids"][run["first_token"] :][: run["num_tokens"]])
            for run in row["targets"]
        ]
        assert targets == [parts["chosen"] + END, parts["rejected"] + END]
        assert row["num_bytes"] == len((parts["chosen"] + parts["rejected"]).encode())
        text = documents[one["doc_id"]]["text"]
        assert text[one["char_start"] : one["char_end"]] == f"{parts['prompt']}\n\n{parts['chosen']}"
        assert text[other["char_start"] : other["char_end"]] == text


def test_pairs_that_tell_nothing_are_left_out_and_counted(preference):
    facts = pin(preference.configs["dataset"].sequences).facts
    assert facts["left_out"]["documents"] == len(LEFT_OUT)
    reasons = sorted(each["reason"] for each in facts["left_out"]["first"])
    assert all(reason.startswith(known) for reason, known in zip(reasons, sorted(LEFT_OUT), strict=True))
    assert sum(counts["sequences"] for counts in facts["splits"].values()) == NUM_PAIRS
    assert all(counts["without_target"] == 0 for counts in facts["splits"].values())


def test_too_many_left_out_stop_the_stage(preference, tmp_path):
    elsewhere = {"sequences": str(tmp_path / "sequences"), "report": None, "max_left_out_fraction": 0.01}
    config = preference.configs["dataset"].model_copy(update=elsewhere)
    with pytest.raises(
        ValueError, match=r"2 of 62 documents cannot .*max_left_out_fraction = 0.01, .*raise the"
    ):
        STAGES["dataset"].main(config)
    assert pin(str(tmp_path / "sequences")) is None


def test_the_report_shows_both_responses_of_a_sample(preference):
    page = (preference.folder / "sequences.html").read_text(encoding="utf-8")
    num_samples = page.count("<article")
    assert num_samples == 9  # three of each split
    assert page.count(" \u00b7 2 segments") == num_samples
    assert page.count('<div class="segment">') == 2 * num_samples


def test_a_document_is_traced_to_its_two_segments(spark, preference):
    sequences = pin(preference.configs["dataset"].sequences)
    row = SEQUENCES.read(spark, sequences.path).where("split = 'train'").first()
    trace = SequenceTrace(
        sequences.path, table_id=sequences.table_id, version=sequences.version, split="train"
    )
    spans = trace.find_document(row["segments"][0]["doc_id"])
    assert [(span.sequence_id, span.num_tokens) for span in spans] == [
        (row["sequence_id"], segment["num_tokens"]) for segment in row["segments"]
    ]


def test_the_model_learns_which_answer_is_better(preference):
    result = read_result(training_of(preference).folder)
    assert result["after"]["preference_accuracy"] == result["after"]["reward_accuracy"] == 1.0
    assert result["before"]["reward_accuracy"] == 0.0  # every pair is a tie with the reference
    assert result["after"]["loss"] < result["before"]["loss"] == pytest.approx(0.6931, abs=1e-4)
    assert result["after"]["reward_margin"] > 0


def training_of(preference):
    return STAGES["finetune"].plan(preference.configs["finetune"]).inputs[0]


def test_the_gate_measures_what_training_measured(spark, preference):
    connect(preference.settings.tree["tracking"]["uri"])
    run = preference.outcomes["scoring"].facts["run"]
    verdict = mlflow.artifacts.load_dict(f"runs:/{run}/verdict.json")
    trained = read_result(training_of(preference).folder)["after"]["preference_accuracy"]
    assert verdict["challenger"]["metric"] == "preference_accuracy"
    assert verdict["challenger"]["value"] == trained
    assert verdict["promote"]
    params = mlflow.get_run(run).data.params
    assert {name: params[name] for name in params if name.startswith("preference")} == {
        "preference.loss": "dpo",
        "preference.beta": "0.2",
        "preference.label_smoothing": "0.0",
    }
    predictions = PREDICTIONS.read(spark, preference.configs["scoring"].predictions)
    assert compute_metric(predictions, "preference_accuracy") == trained
    assert predictions.count() == NUM_PAIRS // 5


def test_the_registered_model_answers_and_has_no_reference(preference):
    connect(preference.settings.tree["tracking"]["uri"])
    found = resolve_model("preference", "champion")
    spec = json.loads((found.folder / "model_spec.json").read_text())
    assert PreferenceLoss(**spec["preference"]) == PreferenceLoss(beta=0.2)
    num_weights = sum(file.stat().st_size for file in found.folder.glob("*.safetensors")) / 4
    hidden, middle, vocabulary = 64, 128, special_tokenizer().get_vocab_size()
    expected = vocabulary * hidden + 2 * (4 * hidden**2 + 3 * hidden * middle + 2 * hidden) + hidden
    assert num_weights == pytest.approx(expected, rel=0.05)  # and a header
    model = mlflow.pyfunc.load_model("models:/preference@champion")
    messages = [{"role": "user", "content": QUESTIONS[1]}]
    first, second = model.predict(pd.DataFrame({"messages": [messages, None], "text": [None, QUESTIONS[1]]}))[
        "prediction"
    ]
    assert first == second
    assert model.predict(model.input_example).shape == (2, 2)


def test_a_second_run_does_nothing(preference):
    for name, stage in STAGES.items():
        assert not stage.main(preference.configs[name]).ran, name
