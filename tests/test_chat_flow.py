"""Chat through the five stages: dialogues in English and Chinese, a tokenizer with a ChatML template, and a
tiny model that learns its answers by heart."""

import json
from dataclasses import replace
from types import SimpleNamespace

import mlflow
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from jobs.run import STAGES
from jobs.shell.settings import load
from pipelines.finetune.plan import make_training
from pipelines.finetune.results import read_result
from pipelines.pin import pin
from pipelines.registry.store import connect
from pipelines.registry.versions.resolve import resolve_model
from pipelines.tables import DOCUMENTS, PREDICTIONS, SEQUENCES
from tests.conftest import TEST_CONF
from tests.dataset.chat.conversations import END, decode, read_template, special_tokenizer

pytestmark = pytest.mark.slow

QUESTIONS = ["Where is my card?", "我的卡在哪里？"]
ANSWERS = ["On its way.", "它在路上。"]
NUM_DIALOGUES = 60
MODEL = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 160,
    "tie_word_embeddings": True,
}


def write_dialogues(file):
    """Two turns each, of which the second depends on the language; one with a role that nobody knows, and one
    that is too long to reach an answer."""
    with file.open("w", encoding="utf-8") as lines:
        for number in range(NUM_DIALOGUES):
            language = number % 2
            turns = [("user", QUESTIONS[language]), ("assistant", ANSWERS[language])]
            turns += [("user", f"{QUESTIONS[language]} {number}"), ("assistant", ANSWERS[language])]
            lines.write(to_line(turns, split=("train", "train", "train", "validation", "test")[number % 5]))
        lines.write(to_line([("narrator", "Once"), ("assistant", "upon a time")], split="train"))
        lines.write(to_line([("user", "why? " * 200), ("assistant", "because")], split="train"))


def to_line(turns, split):
    messages = [{"role": role, "content": text} for role, text in turns]
    return json.dumps({"messages": messages, "split": split}) + "\n"


@pytest.fixture(scope="module")
def chat(spark, tmp_path_factory):
    """The five stages run once: their configs and outcomes."""
    folder = tmp_path_factory.mktemp("chat")
    write_dialogues(folder / "dialogues.jsonl")
    base = folder / "base"
    base.mkdir()
    special_tokenizer().save(str(base / "tokenizer.json"))
    config = {"eos_token": END, "chat_template": read_template("chatml")}
    (base / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    source = {
        "name": "dialogues",
        "path": str(folder / "dialogues.jsonl"),
        "format": "jsonl",
        "messages": "messages",
        "fields": {"split": "split"},
    }
    settings = load(
        overrides=[
            "recipe=chat",
            f"root={folder}/lake",
            f"tracking.uri=sqlite:///{folder}/mlflow.db",
            f"tracking.artifacts={folder}/artifacts",
            f"spark={json.dumps(TEST_CONF)}",
            f"corpus.sources={json.dumps([source])}",
            "corpus.rules.drop_duplicates_from=[]",
            "dataset.task=chat",
            f"dataset.tokenizer.base={base}",
            "dataset.packing={method: one_per_document, sequence_length: 160}",
            f"finetune.model.config={json.dumps(MODEL)}",
            "finetune.optimization.learning_rate=0.01",
            "finetune.num_epochs=12.0",
            "finetune.global_batch=6",
            "finetune.num_ranks=1",
            "finetune.window_batches=1",
            "scoring.num_partitions=2",
        ]
    )
    configs = {name: settings.section(name, stage.Config) for name, stage in STAGES.items()}
    outcomes = {name: stage.main(configs[name]) for name, stage in STAGES.items()}
    return SimpleNamespace(settings=settings, configs=configs, outcomes=outcomes)


def test_a_conversation_that_cannot_be_learned_is_left_out_and_named(spark, chat):
    facts = pin(chat.configs["dataset"].sequences).facts
    documents = DOCUMENTS.read(spark, chat.configs["corpus"].documents).collect()
    (bad,) = (row["doc_id"] for row in documents if row["parts"][0]["name"] == "narrator")
    assert facts["left_out"]["documents"] == 1
    (left_out,) = facts["left_out"]["first"]
    assert left_out["doc_id"] == bad
    assert left_out["reason"].startswith("turn 1 has role 'narrator', known are")
    shown = chat.outcomes["dataset"].facts
    assert shown["documents left out"].startswith(f"1; first {bad}: turn 1 has role 'narrator'")
    sequences = SEQUENCES.read(spark, chat.configs["dataset"].sequences).collect()
    written = [segment["doc_id"] for row in sequences for segment in row["segments"]]
    assert sorted(written) == sorted(row["doc_id"] for row in documents if row["doc_id"] != bad)
    assert sum(len(row["input_ids"]) for row in sequences) == sum(
        counts["tokens"] for counts in facts["splits"].values()
    )


def test_a_document_without_a_target_is_counted(spark, chat):
    train = pin(chat.configs["dataset"].sequences).facts["splits"]["train"]
    assert train["without_target"] == 1
    assert chat.outcomes["dataset"].facts["without a target"] == "1 sequences"
    rows = SEQUENCES.read(spark, chat.configs["dataset"].sequences).where("num_targets = 0").collect()
    assert [row["num_tokens"] for row in rows] == [160]


def test_too_many_left_out_stop_the_stage_before_it_writes(chat, tmp_path):
    elsewhere = {"sequences": str(tmp_path / "sequences"), "max_left_out_fraction": 0.01}
    config = chat.configs["dataset"].model_copy(update=elsewhere)
    with pytest.raises(
        ValueError, match=r"1 of 62 documents cannot .*max_left_out_fraction = 0.01, .*narrator.*raise the"
    ):
        STAGES["dataset"].main(config)
    assert pin(str(tmp_path / "sequences")) is None
    assert not [place for place in (tmp_path / "sequences").rglob("*") if place.is_file()]


def test_sequences_that_do_not_say_how_they_were_written_are_refused(chat):
    sequences = pin(chat.configs["dataset"].sequences)
    config, facts = chat.configs["finetune"], dict(sequences.facts)
    assert make_training(config, sequences).spec.chat.template == read_template("chatml")
    del facts["chat"]
    with pytest.raises(ValueError, match=r"do not say how their conversations were written.*dataset stage"):
        make_training(config, replace(sequences, facts=facts))


def test_the_gate_measures_what_training_measured(chat):
    connect(chat.settings.tree["tracking"]["uri"])
    training = STAGES["finetune"].plan(chat.configs["finetune"]).inputs[0]
    verdict = mlflow.artifacts.load_dict(f"runs:/{find_run(chat)}/verdict.json")
    trained = read_result(training.folder)["after"]["bits_per_byte"]
    assert verdict["challenger"]["metric"] == "bits_per_byte"
    assert verdict["challenger"]["value"] == pytest.approx(trained, abs=1e-4)


def find_run(chat):
    return chat.outcomes["scoring"].facts["run"]


def test_the_champion_answers_and_stops(spark, chat):
    rows = PREDICTIONS.read(spark, chat.configs["scoring"].predictions).collect()
    assert len(rows) == NUM_DIALOGUES // 5
    asked = {row["text"].startswith(QUESTIONS[1]): row["prediction"] for row in rows}
    assert asked == {False: ANSWERS[0], True: ANSWERS[1]}
    for row in rows:
        answer = ANSWERS[row["text"].startswith(QUESTIONS[1])]
        assert (row["prediction"], row["problem"]) == (answer, None)
        assert row["num_bytes"] == 2 * len(answer.encode())  # both turns of the assistant


def test_a_loaded_model_reads_messages_and_texts(chat):
    connect(chat.settings.tree["tracking"]["uri"])
    model = mlflow.pyfunc.load_model("models:/chat@champion")
    messages = [{"role": "user", "content": QUESTIONS[1]}]
    assert list(model.predict(pd.DataFrame({"messages": [messages]}))["prediction"]) == [ANSWERS[1]]
    assert list(model.predict(pd.DataFrame({"text": QUESTIONS}))["prediction"]) == ANSWERS
    mixed = pd.DataFrame({"messages": [messages, None], "text": [None, QUESTIONS[0]]})
    assert list(model.predict(mixed)["prediction"]) == [ANSWERS[1], ANSWERS[0]]
    with pytest.raises(MlflowException, match=r"row 0: turn 1 has role 'narrator'"):
        model.predict(pd.DataFrame({"messages": [[{"role": "narrator", "content": "a"}]]}))
    with pytest.raises(MlflowException, match="tool_calls"):
        model.predict(pd.DataFrame({"messages": [[{**messages[0], "tool_calls": []}]]}))
    with pytest.raises(MlflowException, match="the model needs column 'messages' or 'text', got none"):
        model.predict(pd.DataFrame({"other": ["a"]}))
    assert model.predict(model.input_example).shape == (2, 2)


def test_the_registered_model_carries_its_template(chat):
    connect(chat.settings.tree["tracking"]["uri"])
    folder = resolve_model("chat", "champion").folder
    assert (folder / "chat_template.jinja").read_text(encoding="utf-8") == read_template("chatml")
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [
        special_tokenizer().token_to_id(END)
    ]


def test_targets_are_the_answers_alone(spark, chat):
    tokenizer, targets = special_tokenizer(), set()
    for row in SEQUENCES.read(spark, chat.configs["dataset"].sequences).collect():
        for run in row["targets"]:
            ids = row["input_ids"][run["first_token"] :][: run["num_tokens"]]
            targets.add(decode(tokenizer, ids))
    assert targets == {answer + END for answer in ANSWERS}


def test_a_second_run_does_nothing(chat):
    for name, stage in STAGES.items():
        assert not stage.main(chat.configs[name]).ran, name
