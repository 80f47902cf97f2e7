"""From a file of dialogues to a trained model: corpus, dataset and finetune, with a tokenizer of its own."""

import json

import pytest

from jobs.run import STAGES
from jobs.shell.settings import load
from pipelines.dataset.tokenizer import read_tokenizer
from pipelines.pin import pin
from pipelines.tables import DOCUMENTS, SEQUENCES
from tests.conftest import TEST_CONF

TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
END = "<|end_of_text|>"
QUESTIONS = ["我的卡在哪里？", "Where is my card?"]
ANSWERS = ["它在路上<|end_of_text|>", "On its way."]
MODEL = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="module")
def dialogues(spark, tmp_path_factory):
    """The configurations of the stages, run over 40 dialogues of ShareGPT's form."""
    folder = tmp_path_factory.mktemp("dialogues")
    (folder / "chat.jinja").write_text(TEMPLATE, encoding="utf-8")
    with (folder / "dialogues.jsonl").open("w", encoding="utf-8") as lines:
        for number in range(40):
            turns = [("human", f"{QUESTIONS[number % 2]} {number}"), ("gpt", ANSWERS[number % 2])]
            turns += [("human", "And now?"), ("gpt", f"Answer {number}")]
            dialogue = [{"from": role, "value": text} for role, text in turns]
            lines.write(json.dumps({"conversations": dialogue}) + "\n")
    source = {"name": "dialogues", "path": str(folder), "format": "jsonl", "messages": "conversations"}
    source |= {
        "path": str(folder / "dialogues.jsonl"),
        "splits": {"train": 0.6, "validation": 0.2, "test": 0.2},
    }
    settings = load(
        overrides=[
            f"root={folder}/lake",
            f"tracking.uri=sqlite:///{folder}/mlflow.db",
            f"tracking.artifacts={folder}/artifacts",
            f"spark={json.dumps(TEST_CONF)}",
            f"corpus.sources={json.dumps([source])}",
            "dataset.task=chat",
            "dataset.tokenizer.vocab_size=300",
            f"dataset.tokenizer.chat.template={folder}/chat.jinja",
            "dataset.packing={method: concatenate, sequence_length: 128}",
            f"finetune.model.config={json.dumps(MODEL)}",
            "finetune.num_epochs=1.0",
            "finetune.global_batch=8",
            "finetune.window_batches=1",
        ]
    )
    configs = {
        name: settings.section(name, STAGES[name].Config) for name in ("corpus", "dataset", "finetune")
    }
    for name, config in configs.items():
        STAGES[name].main(config)
    return configs


@pytest.mark.slow
def test_sequences_teach_what_the_assistant_said(spark, dialogues):
    config = dialogues["dataset"]
    facts = pin(config.sequences).facts
    tokenizer = read_tokenizer(config.tokenizers, facts["tokenizer"])
    end = tokenizer.token_to_id(END)
    assert (facts["task"], facts["end_token_id"]) == ("chat", end)
    targets = []
    for row in SEQUENCES.read(spark, config.sequences).collect():
        for run in row["targets"]:
            ids = row["input_ids"][run["first_token"] :][: run["num_tokens"]]
            targets.append(tokenizer.decode(ids, skip_special_tokens=False) if ids[-1] == end else "cut")
    said = [answer + END for answer in ANSWERS for _ in range(20)] + [f"Answer {n}{END}" for n in range(40)]
    whole = [text for text in targets if text != "cut"]
    # A row that ends within an answer cuts it; the few that are whole are exact.
    assert len(whole) > 60
    assert set(said) >= {text for text in whole if text.startswith(("它", "On", "Answer"))}
    assert sum(text in said for text in whole) > 60


@pytest.mark.slow
def test_a_training_learns_from_conversations(dialogues):
    train = pin(dialogues["dataset"].sequences).facts["splits"]["train"]
    assert 0 < train["targets"] < train["tokens"] / 2
    assert not STAGES["finetune"].main(dialogues["finetune"]).ran  # it has run


@pytest.mark.slow
def test_documents_are_the_turns(spark, dialogues):
    row = DOCUMENTS.read(spark, dialogues["corpus"].documents).first()
    assert [part["name"] for part in row["parts"]] == ["human", "gpt", "human", "gpt"]
