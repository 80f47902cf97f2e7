"""Models of conversations read what the dataset stage writes, and their answers end where turns end."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoTokenizer, GenerationConfig

from pipelines.dataset.chat_format import MAX_CHARS, ChatFormat
from pipelines.dataset.examples.chat import ChatExamples
from pipelines.dataset.examples.example import Document, ExampleSettings, Part
from pipelines.dataset.rows import NO_LABEL, Rows
from pipelines.dataset.tokenizer import tokenizer_fingerprint
from pipelines.finetune.models.architecture import SPEC_FILE, Architecture, ModelSpec, parse_use, read_spec
from pipelines.finetune.models.build import build_model
from pipelines.finetune.models.folder import load_model, save_model
from pipelines.finetune.tasks.conversations import ConversationReader
from pipelines.finetune.tasks.table import build_task
from pipelines.scoring.predict import Predictor
from tests.dataset.chat.conversations import (
    BEGIN,
    END,
    TURN_ENDS,
    decode,
    document_of,
    format_of,
    read_template,
    special_tokenizer,
)
from tests.scoring.conftest import KINDS, SIZES

DIALOGUES = [
    [("user", "Where is my card?"), ("assistant", "On its way.")],
    [
        ("system", "简短"),
        ("user", "我的卡在哪里？"),
        ("assistant", "它在路上"),
        ("user", "?"),
        ("assistant", "明天到"),
    ],
    [("user", f"what is {END}?"), ("assistant", f"a token: {END}"), ("user", "thanks")],
]
UNKNOWN_ROLE = [("narrator", "a"), ("assistant", "bcd")]


def spec_of(chat, *, task="chat", max_tokens=256, tokenizer=None):
    tokenizer = tokenizer or special_tokenizer()
    return ModelSpec(
        task=task,
        labels=(),
        max_tokens=max_tokens,
        base="scratch",
        tokenizer=tokenizer_fingerprint(tokenizer),
        end_token_id=tokenizer.token_to_id(dict(chat.variables)["eos_token"]),
        chat=chat,
    )


def build_folder(folder, spec, tokenizer=None):
    """A model of random weights with the spec."""
    tokenizer = tokenizer or special_tokenizer()
    sizes = {**SIZES, "max_position_embeddings": 256}
    architecture = Architecture(config={**KINDS["language_modelling"], **sizes})
    module = build_model(architecture, spec, vocab_size=tokenizer.get_vocab_size(), seed=1)
    save_model(module, tokenizer.to_str(), spec, folder)
    return folder


@pytest.fixture(scope="module", params=sorted(TURN_ENDS))
def model(request, tmp_path_factory):
    """(folder, name of its template, its builder of examples) for a template of each kind."""
    chat = format_of(read_template(request.param), eos=TURN_ENDS[request.param])
    folder = build_folder(tmp_path_factory.mktemp(request.param) / "model", spec_of(chat))
    settings = ExampleSettings(chat=chat, end_token_id=spec_of(chat).end_token_id)
    return folder, request.param, ChatExamples(special_tokenizer(), settings)


def test_prompts_are_the_tokens_of_training_before_the_last_answer(model):
    _, _, builder = model
    answered = [document_of(turns) for turns in DIALOGUES[:2]]
    examples, prompts = builder.build(answered), builder.build_prompts(answered)
    for example, prompt in zip(examples, prompts, strict=True):
        (unit,) = example.units
        last = int(np.flatnonzero(np.diff(unit.is_target.astype(int), prepend=0) == 1)[-1])
        assert prompt.input_ids == unit.input_ids[:last].tolist()


def test_a_dialogue_that_ends_with_the_user_is_answered_there(model):
    _, name, builder = model
    (prompt,) = builder.build_prompts([document_of(DIALOGUES[2])])
    written = decode(special_tokenizer(), prompt.input_ids)
    assert "thanks" in written
    assert written.rstrip().endswith(("assistant", "<|end_header_id|>"))
    # What a message spells is text: the template ends three turns itself.
    assert prompt.input_ids.count(special_tokenizer().token_to_id(TURN_ENDS[name])) == 3


def test_a_text_is_what_the_user_says(model):
    _, _, builder = model
    as_text, as_turn = builder.build_prompts([Document("d", "hi"), document_of([("user", "hi")])])
    assert as_text == as_turn


def test_prompts_are_those_of_transformers(model):
    folder, _, builder = model
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for turns in (DIALOGUES[0][:1], DIALOGUES[1][:-1]):
        messages = [{"role": role, "content": content} for role, content in turns]
        expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        (prompt,) = builder.build_prompts([document_of(turns)])
        assert decode(special_tokenizer(), prompt.input_ids) == expected


def test_a_model_folder_tells_others_where_answers_end(model):
    folder, name, _ = model
    end = special_tokenizer().token_to_id(TURN_ENDS[name])
    assert GenerationConfig.from_pretrained(folder).eos_token_id == [end]
    assert AutoTokenizer.from_pretrained(folder).eos_token == TURN_ENDS[name]


def test_the_spec_of_a_folder_is_the_one_saved(model):
    folder, name, _ = model
    chat = format_of(read_template(name), eos=TURN_ENDS[name])
    loaded = read_spec(folder).chat
    assert loaded.fingerprint == chat.fingerprint
    assert loaded.template == read_template(name)


def test_scores_are_those_of_training(model):
    """Bits per byte over the assistant's turns: scoring against the sums of the training's batches."""
    folder, _, builder = model
    documents = [document_of(turns) for turns in DIALOGUES]
    units = [example.units[0] for example in builder.build(documents)]
    num_bytes = np.array([int(unit.num_bytes[unit.is_target].sum()) for unit in units])
    assert num_bytes.tolist() == [
        sum(len(text.encode()) for role, text in turns if role == "assistant") for turns in DIALOGUES
    ]
    rows = Rows(
        [unit.input_ids for unit in units],
        [unit.is_target for unit in units],
        [np.array([len(unit.input_ids)]) for unit in units],
        np.full(len(units), NO_LABEL),
        np.array([unit.is_target.sum() for unit in units]),
        num_bytes,
    )
    loaded = load_model(folder)
    task = build_task(loaded.spec)
    batch = task.collate(rows, torch.device("cpu"))
    with torch.inference_mode():
        trained = task.metrics(task.sums(loaded.module(**batch.inputs), batch))["bits_per_byte"]
    scored = Predictor.load(folder).predict(documents, generate=False)
    assert [each.num_bytes for each in scored] == num_bytes.tolist()
    bits = sum(each.score * each.num_bytes for each in scored) / num_bytes.sum()
    assert bits == pytest.approx(trained, abs=1e-5)


def test_a_long_dialogue_is_scored_in_windows(model, tmp_path):
    """Twin: every target once, predicted from the tokens before it in its window."""
    folder, name, builder = model
    size = 24
    chat = format_of(read_template(name), eos=TURN_ENDS[name])
    short = build_folder(tmp_path / "model", spec_of(chat, max_tokens=size))
    (example,) = builder.build([document_of(DIALOGUES[1])])
    ids, is_target, num_bytes = (
        getattr(example.units[0], key) for key in ("input_ids", "is_target", "num_bytes")
    )
    assert len(ids) > 2 * size
    module, nats = load_model(short).module, 0.0
    for start in range(0, len(ids) - 1, size - 1):
        window = torch.from_numpy(ids[None, start : start + size])
        with torch.inference_mode():
            logits = module(input_ids_BT=window, attention_mask_BT=torch.ones_like(window))[0].log_softmax(-1)
        for place in range(1, window.shape[1]):
            if is_target[start + place]:
                nats -= float(logits[place - 1, window[0, place]])
    expected = nats / math.log(2) / int(num_bytes[is_target].sum())
    (scored,) = Predictor.load(short).predict([document_of(DIALOGUES[1])], generate=False)
    assert scored.score == pytest.approx(expected, abs=1e-5)
    assert folder != short


class Successor(nn.Module):
    """A causal model whose next token depends on the last one alone."""

    def __init__(self, successors, vocab_size):
        super().__init__()
        table = torch.zeros(vocab_size, vocab_size)
        for token, following in successors.items():
            table[token, following] = 1
        self.table = nn.Parameter(table)

    def forward(self, input_ids_BT, attention_mask_BT):
        return self.table[input_ids_BT.long()]


@pytest.mark.parametrize(("name", "opens"), [("chatml", "\n"), ("llama3", "\n\n")])
def test_a_token_that_ends_a_turn_ends_the_answer(name, opens):
    tokenizer = special_tokenizer()
    start = tokenizer.encode(opens).ids[-1]
    x, y, end = (tokenizer.token_to_id(token) for token in ("x", "y", TURN_ENDS[name]))
    # The end of the text is another token than that of a turn, as in the base models of Llama 3.
    chat = format_of(read_template(name), eos=BEGIN)
    model = Successor({start: x, x: y, y: end, end: x}, tokenizer.get_vocab_size())
    (answer,) = build_task(spec_of(chat)).predict(
        model, tokenizer, [Document("", "hi")], batch_size=1, generate=True
    )
    assert answer.prediction == "xy"
    unstopped = Successor({start: x, x: y, y: x}, tokenizer.get_vocab_size())
    documents = [Document("", text) for text in ("hi", "hi " * 40, "hi " * 400)]
    task, reader = build_task(spec_of(chat)), ConversationReader(tokenizer, spec_of(chat))
    endless = task.predict(unstopped, tokenizer, documents, batch_size=3, generate=True)
    sizes = [len(each.prompt_ids) for each in reader.read(documents, with_prompts=True)]
    # What the prompt leaves of the window, whatever else is in the batch; the longest is cut to leave 32.
    assert sizes[0] < sizes[1] < 256 - 32 < sizes[2]
    assert [len(each.prediction) for each in endless] == [256 - sizes[0], 256 - sizes[1], 32]
    assert endless[1].prediction.startswith("xyxy")


def test_a_dialogue_that_cannot_be_read_is_named_and_scored_as_chance(model):
    folder, _, _ = model
    good, bad, silent = Predictor.load(folder).predict(
        [document_of(DIALOGUES[0]), document_of(UNKNOWN_ROLE), document_of(UNKNOWN_ROLE[:1])]
    )
    assert good.problem is None
    assert (bad.prediction, bad.score, bad.num_bytes) == ("", 8.0, len("bcd"))
    assert "turn 1 has role 'narrator', known are" in bad.problem
    assert (silent.score, silent.num_bytes) == (0.0, 0)
    assert "narrator" in silent.problem


def test_an_empty_answer_is_one_to_be_written(model):
    folder, _, builder = model
    asked = [("user", "a"), ("assistant", "b"), ("user", "c")]
    open_ended, whole, only = Predictor.load(folder).predict(
        [document_of([*asked, ("assistant", " ")]), document_of(asked), document_of([("assistant", "")])]
    )
    assert open_ended == whole
    assert (whole.problem, whole.num_bytes) == (None, 1)
    assert "turn 1, of the assistant, is empty" in only.problem
    (example,) = builder.build([document_of([*asked, ("assistant", "")])])
    assert "turn 4, of the assistant, is empty" in example.problem


def test_a_pair_without_a_response_is_a_prompt(tmp_path):
    chat = ChatFormat(None, (("eos_token", END),))
    predictor = Predictor.load(build_folder(tmp_path / "model", spec_of(chat, task="prompt_response")))
    pair = Document("d", "ab", parts=(Part("prompt", "ab"), Part("response", "")))
    found, expected = predictor.predict([pair, Document("d", "ab")])
    assert found == expected
    assert found.problem is None


def test_prompt_and_response_need_no_template(tmp_path):
    tokenizer = special_tokenizer()
    chat = ChatFormat(None, (("eos_token", END),))
    folder = build_folder(tmp_path / "model", spec_of(chat, task="prompt_response"))
    assert not (folder / "chat_template.jinja").exists()
    parts = (Part("prompt", "Where is my card? "), Part("response", "On its way."))
    pair = Document("d", "x", parts=parts)
    predictor = Predictor.load(folder)
    answered, asked = predictor.predict([pair, Document("d", "Where is my card? ")])
    assert (answered.num_bytes, asked.num_bytes) == (len("On its way."), 0)
    assert answered.prediction == asked.prediction
    assert predictor.spec.chat.fingerprint == chat.fingerprint
    assert ConversationReader(tokenizer, predictor.spec).stop_ids == {tokenizer.token_to_id(END)}


HOSTILE = [
    "{{ cycler.__init__.__globals__.os.system('touch ' ~ messages[0].content) }}",
    "{{ messages.__class__.__mro__[1].__subclasses__() }}",
    "{% import 'os' as os %}{{ os.system('touch ' ~ messages[0].content) }}",
]


@pytest.mark.parametrize("template", HOSTILE)
def test_a_hostile_template_of_a_model_folder_executes_nothing(tmp_path, template):
    chat = format_of(read_template("chatml"))
    folder = build_folder(tmp_path / "model", spec_of(chat))
    (folder / "chat_template.jinja").write_text(template + read_template("chatml"))
    trace = tmp_path / "executed"
    (refused,) = Predictor.load(folder).predict([Document("", str(trace))])
    assert "does not take the messages" in refused.problem
    assert refused.prediction == ""
    assert not trace.exists()


def test_a_template_of_a_model_folder_that_wants_too_much_is_refused(tmp_path):
    folder = build_folder(tmp_path / "model", spec_of(format_of(read_template("chatml"))))
    file = folder / "chat_template.jinja"
    file.write_text("{{ 'a' * 10**12 }}")
    with pytest.raises(ValueError, match=r"chat_template.jinja of the model .* wants more work or memory"):
        Predictor.load(folder).predict(["hi"])
    file.write_text("a" * (MAX_CHARS + 1))
    with pytest.raises(ValueError, match=r"chat_template.jinja of the model has 100,001 characters, at most"):
        Predictor.load(folder)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"chat_template\.jinja"):
        Predictor.load(folder)


@pytest.mark.parametrize("task", ["chat", "prompt_response"])
def test_a_model_of_conversations_of_an_earlier_release_is_refused_by_name(tmp_path, task):
    folder = build_folder(tmp_path / "model", spec_of(format_of(read_template("chatml")), task=task))
    file = folder / SPEC_FILE
    assert parse_use(file.read_bytes(), "version 3 of bank") == ("bits_per_byte", True, task)
    fields = json.loads(file.read_text())
    del fields["chat"]
    file.write_text(json.dumps(fields))
    message = "was trained by an earlier Distributary and has no template; train again, and remove its alias"
    with pytest.raises(ValueError, match=f"^version 3 of bank {message} champion"):
        parse_use(file.read_bytes(), "version 3 of bank")
    with pytest.raises(ValueError, match=message):
        Predictor.load(folder)


def test_a_folder_keeps_its_template_in_one_place(model):
    folder, name, _ = model
    fields = json.loads((folder / "model_spec.json").read_text())
    assert fields["chat"]["has_template"] is True
    assert "template" not in fields["chat"]
    assert (folder / "chat_template.jinja").read_text() == read_template(name)
