"""The recipes of answers and of vectors on a part of their data: dialogues in Chinese, and a FAQ."""

import pytest

from pipelines.dataset.chat_format import ChatFormat
from pipelines.dataset.examples.chat import ChatExamples
from pipelines.dataset.examples.example import ExampleSettings
from pipelines.dataset.tokenizer import END_OF_TEXT, read_tokenizer
from pipelines.pin import pin
from pipelines.tables import DOCUMENTS, SEQUENCES
from tests.dataset.chat.conversations import END, document_of, special_tokenizer
from tests.recipe_runs import CHECKOUT, read_rows, run_recipe

pytestmark = pytest.mark.slow

STAGES = ("corpus", "dataset", "finetune")
TEMPLATE = CHECKOUT / "conf" / "recipe" / "answers.jinja"


@pytest.fixture(scope="module")
def answers(spark, tmp_path_factory):
    """Every 12th dialogue, and tokens of which some stand for several characters."""
    changes = [
        f"dataset.tokenizer.chat.template={TEMPLATE}",
        "dataset.tokenizer.vocab_size=1024",
        "finetune.num_epochs=4.0",
    ]
    return run_recipe("answers", tmp_path_factory.mktemp("answers"), is_twelfth, changes, STAGES)


def is_twelfth(dialogue):
    return int(dialogue["id"]) % 12 == 0


@pytest.fixture(scope="module")
def adapted(answers, tmp_path_factory):
    """An adapter on the model above, on the same documents."""
    changes = [
        f"dataset.tokenizer.base={answers.model}",
        f"corpus.documents={answers.configs['corpus'].documents}",
        "dataset.packing.sequence_length=768",
        "finetune.num_epochs=1.0",
    ]
    folder = tmp_path_factory.mktemp("answers_lora")
    return run_recipe("answers_lora", folder, is_twelfth, changes, STAGES[1:])


def test_targets_are_the_replies_with_their_end(spark, answers):
    config = answers.configs["dataset"]
    tokenizer = read_tokenizer(config.tokenizers, pin(config.sequences).facts["tokenizer"])
    documents = {row.doc_id: row for row in DOCUMENTS.read(spark, config.documents).collect()}
    num_whole = 0
    for row in SEQUENCES.read(spark, config.sequences).collect():
        (doc_id,) = {segment.doc_id for segment in row.segments}
        expected = [part.text + END_OF_TEXT for part in documents[doc_id].parts if part.name == "assistant"]
        found = [
            tokenizer.decode(row.input_ids[run.first_token :][: run.num_tokens], skip_special_tokens=False)
            for run in row.targets
        ]
        if row.num_tokens < config.packing.sequence_length:  # nothing was cut
            assert found == expected
            num_whole += 1
    assert num_whole > 50


def test_replies_are_learned_from_scratch(answers):
    assert answers.result["after"]["bits_per_byte"] < 0.9 * answers.result["before"]["bits_per_byte"]


def test_an_adapter_starts_from_the_decoder_that_is_named(answers, adapted):
    found = adapted.result
    assert found["before"]["bits_per_byte"] == pytest.approx(
        answers.result["after"]["bits_per_byte"], abs=1e-5
    )
    assert found["after"]["bits_per_byte"] < found["before"]["bits_per_byte"]
    assert found["num_trained_parameters"] < found["num_parameters"] / 3


def test_a_prompt_ends_where_the_reply_begins():
    chat = ChatFormat(TEMPLATE.read_text(encoding="utf-8"))
    tokenizer = special_tokenizer()
    settings = ExampleSettings(chat=chat, end_token_id=tokenizer.token_to_id(END))
    document = document_of(
        [("system", "简短"), ("user", "你好"), ("assistant", "您好"), ("user", "再见"), ("assistant", "再见")]
    )
    builder = ChatExamples(tokenizer, settings)
    (example,), (prompt,) = builder.build([document]), builder.build_prompts([document])
    (unit,) = example.units
    written = tokenizer.decode(prompt.input_ids, skip_special_tokens=False)
    assert written == "说明：简短<|im_end|>用户：你好<|im_end|>客服：您好<|im_end|>用户：再见<|im_end|>客服："
    assert prompt.input_ids == unit.input_ids.tolist()[: len(prompt.input_ids)]
    assert unit.is_target[len(prompt.input_ids) :].all()


def test_no_test_dialogue_ends_in_a_goodbye():
    """Predictions hold the last reply: it is to say something."""
    (_, test) = (read_rows(CHECKOUT / f"data/crosswoz/{name}.jsonl.gz") for name in ("val", "test"))
    assert len(test) == 500
    last = [dialogue["messages"][-1] for dialogue in test]
    assert {message["role"] for message in last} == {"assistant"}
    assert sum("不客气" in message["content"] for message in last) == 0


@pytest.fixture(scope="module")
def embedding(spark, tmp_path_factory):
    """The whole FAQ, and every tenth section of the manual."""

    def keep(row):
        return "question" in row or int(row["id"].split("#")[1]) % 10 == 0

    changes = ["finetune.num_epochs=1.0"]
    return run_recipe("embedding", tmp_path_factory.mktemp("embedding"), keep, changes, STAGES)


def test_the_manual_trains_and_the_questions_stay_in_their_splits(spark, embedding):
    manual, questions = (read_rows(source["path"]) for source in embedding.sources)
    documents = DOCUMENTS.read(spark, embedding.configs["corpus"].documents).collect()
    found = {(row["split"], *(part.text for part in row["parts"])) for row in documents}
    expected = {("train", row["heading"], row["passage"]) for row in manual}
    expected |= {(row["split"], row["question"], row["answer"]) for row in questions}
    assert found == expected
    assert len(expected) == len(manual) + len(questions) > 200


def test_the_untouched_base_is_measured_on_the_test_questions(embedding):
    """It finds 0.61 of them first, among all answers of the split; TF-IDF 0.43."""
    assert embedding.result["metric"] == "mrr"
    assert embedding.result["before"]["recall_at_1"] > 0.5
    assert embedding.result["after"]["loss"] < embedding.result["before"]["loss"]
