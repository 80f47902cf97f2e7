"""Chat and prompt/response: what they take, what they refuse, and where the template is from."""

import re
import string

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from pipelines.dataset.chat_rules import ChatRules
from pipelines.dataset.chat_template import load_chat_format
from pipelines.dataset.examples.chat import ChatExamples
from pipelines.dataset.examples.conversation_encode import ConversationEncoder
from pipelines.dataset.examples.example import Document, ExampleSettings, Part
from pipelines.dataset.examples.prompt_response import PromptResponseExamples
from pipelines.dataset.tokenizer import ChosenTokenizer, from_json, identify_tokenizer, train_bpe
from pipelines.dataset.tokenizer_choice import TokenizerChoice
from tests.dataset.chat.conversations import (
    BEGIN,
    END,
    build_chat,
    decode,
    decode_targets,
    document_of,
    format_of,
    read_template,
    special_tokenizer,
)
from tests.dataset.styles import TEXTS, llama_style, write_model_folder

CHATML = read_template("chatml")
UNUSED_BLOCK = CHATML + "{% if no %}{%+ generation %}{% endgeneration %}{% endif %}"


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([], r"document d: it has no turns; name the field .* in corpus.sources\[\].messages"),
        ([("user", "a")], "document d: it has no turn of the assistant, .*remove it from its source"),
        ([("bot", "a")], "turn 1 has role 'bot', known are .*roles, such as {bot: user}"),
        ([("user", " \n"), ("assistant", "a")], "turn 1, of the user, is empty"),
        ([("user", "a"), ("assistant", "")], "turn 2, of the assistant, is empty"),
    ],
)
def test_a_conversation_without_something_to_learn_is_refused(turns, message):
    with pytest.raises(ValueError, match=message):
        build_chat(CHATML, turns)


def test_other_names_of_roles_are_roles():
    turns = [("human", "a"), ("gpt", "b")]
    named = build_chat(CHATML, turns, roles=(("gpt", "assistant"), ("human", "user")))
    expected = build_chat(CHATML, [("user", "a"), ("assistant", "b")])
    assert [array.tolist() for array in named] == [array.tolist() for array in expected]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "task chat needs a chat template, .* set dataset.tokenizer.chat.template"),
        (
            "{% for m in messages %}{{ m.content }}{% endfor %}",
            "ends message 2, .* write one behind the content",
        ),
        (
            "{% for m in messages %}{{ m.content | upper }}{{ eos_token }}{% endfor %}",
            "changes the text of a mes",
        ),
        (
            "{% for m in messages %}{{ m.content[:1] }}{{ eos_token }}{% endfor %}",
            "changes the text of a mes",
        ),
        ("{{ messages[0].content }}{{ eos_token }}", "leaves out message 2, a turn of the assistant"),
        ("{% for m in messages + messages %}{{ m.content }}{{ eos_token }}{% endfor %}", "in several places"),
        ("{{ raise_exception('no system') }}", "does not take the messages .*no system"),
        (UNUSED_BLOCK, "wrote no {% generation %} block"),
        (
            "{{ '\\U000f1234' }}{{ eos_token }}",
            r"document d: the chat template writes .* U\+F1234; remove it",
        ),
        ("{{ '\\ufdd0' }}{{ eos_token }}", r"document d: the chat template writes .* U\+FDD0; remove it"),
        ("{{ strftime_now('%d %b') }}", "set dataset.tokenizer.chat.date=YYYY-MM-DD"),
        ("\U000f0000{{ eos_token }}", r"has the private character U\+F0000; remove it"),
    ],
)
def test_a_template_that_hides_who_said_what_is_refused(template, message):
    with pytest.raises(ValueError, match=message):
        build_chat(template, [("user", "one"), ("assistant", "two")])


def write(response, *, template=None, max_tokens=None, tokenizer=None, prompt="你好 <|im_end|>", system=()):
    tokenizer = tokenizer or special_tokenizer()
    settings = ExampleSettings(
        end_token_id=tokenizer.token_to_id(END), chat=format_of(template), max_tokens=max_tokens
    )
    parts = (*(Part("system", text) for text in system), Part("prompt", prompt), Part("response", response))
    text = "\n\n".join(part.text for part in parts)
    (example,) = PromptResponseExamples(tokenizer, settings).build([Document("d", text, parts=parts)])
    return tokenizer, example


def test_a_response_follows_its_prompt_and_ends():
    tokenizer, example = write("我的卡 <|im_end|>")
    (unit,) = example.units
    assert decode(tokenizer, unit.input_ids) == "你好 <|im_end|>我的卡 <|im_end|><|im_end|>"
    assert decode_targets(tokenizer, unit) == ["我的卡 <|im_end|><|im_end|>"]
    assert unit.input_ids.tolist().count(tokenizer.token_to_id(END)) == 1
    assert unit.num_bytes.sum() == len("你好 <|im_end|>我的卡 <|im_end|>".encode())


def test_a_prompt_is_encoded_as_at_inference():
    # In one piece, "the c" and "ard" would share tokens.
    tokenizer, example = write("ard", prompt="the c")
    prompt = tokenizer.encode("the c").ids
    assert example.units[0].input_ids.tolist() == [
        *prompt,
        *tokenizer.encode("ard").ids,
        tokenizer.token_to_id(END),
    ]
    assert tokenizer.encode("the card").ids != [*prompt, *tokenizer.encode("ard").ids]


def test_prompt_and_response_take_the_template_of_the_tokenizer():
    _, example = write("b", template=read_template("llama3"), prompt="a", system=["s"])
    chat = build_chat(read_template("llama3"), [("system", "s"), ("user", "a"), ("assistant", "b")])
    assert [array.tolist() for array in example.units[0]] == [array.tolist() for array in chat]


def test_an_empty_line_ends_a_system_part():
    tokenizer, example = write("b", prompt="a", system=["Be kind."])
    (unit,) = example.units
    assert decode(tokenizer, unit.input_ids) == f"Be kind.\n\nab{END}"
    assert decode_targets(tokenizer, unit) == [f"b{END}"]


def test_the_tokens_that_open_every_text_open_a_prompt():
    tokenizer = from_json(llama_style().to_str())
    settings = ExampleSettings(end_token_id=tokenizer.token_to_id("<|endoftext|>"))
    parts = (Part("prompt", "the card"), Part("response", "was stolen"))
    (example,) = PromptResponseExamples(tokenizer, settings).build([Document("d", "x", parts=parts)])
    unit = example.units[0]
    assert decode(tokenizer, unit.input_ids) == f"{BEGIN}the cardwas stolen<|endoftext|>"
    assert (unit.char_start == -1).all()  # the source maps a text of its own
    assert unit.num_bytes.sum() == len("the cardwas stolen")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (None, r"has parts \[\], but task prompt_response needs prompt and response"),
        ((Part("question", "a"), Part("response", "b")), r"has parts \['question', 'response'\]"),
        ((Part("prompt", "a"), Part("response", " ")), "its response is empty"),
    ],
)
def test_documents_without_prompt_and_response_are_refused(parts, message):
    builder = PromptResponseExamples(special_tokenizer(), ExampleSettings(end_token_id=2))
    (example,) = builder.build([Document("d", "a", parts=parts)])
    assert example.units == []
    assert re.search(message, example.problem)


def test_a_text_that_the_tokenizer_cannot_write_is_refused_alone():
    """Unigram without an unknown token reads "</s>" in a text as its own."""
    scores = [("</s>", 0.0), ("▁", -3.0), *((letter, -5.0) for letter in string.printable)]
    tokenizer = Tokenizer(models.Unigram(scores))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(["</s>"])
    chat = format_of("{% for m in messages %}{{ m.content }}</s>{% endfor %}", eos="</s>")
    builder = ChatExamples(from_json(tokenizer.to_str()), ExampleSettings(end_token_id=0, chat=chat))
    documents = [document_of([("user", text), ("assistant", "a")]) for text in ("b", "c </s>", "d", "e </s>")]
    examples, prompts = list(builder.build(documents)), list(builder.build_prompts(documents))
    for number, (document, example, prompt) in enumerate(zip(documents, examples, prompts, strict=True)):
        (alone,), (asked,) = builder.build([document]), builder.build_prompts([document])
        assert prompt == asked
        assert example.problem == alone.problem == prompt.problem
        if number in (0, 2):
            assert example.problem is None
            assert example.units[0].input_ids.tolist() == alone.units[0].input_ids.tolist()
        else:
            assert (example.units, prompt.input_ids) == ([], [])
            assert "a text spells special token '</s>'" in example.problem


def sentence_piece_style(prefix: str) -> Tokenizer:
    """Llama 2, Mistral and Phi-3: spaces are "▁", and some put one before a text, with byte fallback."""
    letters = ["<unk>", "<s>", "</s>", "▁", *"abcdefgh", "▁a", "▁b", "ab"]
    bytes_of = [f"<0x{number:02X}>" for number in range(256)]
    vocabulary = {token: number for number, token in enumerate([*letters, *bytes_of])}
    merges = [("▁", "a"), ("▁", "b"), ("a", "b")]
    model = models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    if prefix == "legacy":
        steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        tokenizer.normalizer = normalizers.Sequence(steps)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prefix, split=False)
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>", AddedToken("<|end|>", rstrip=True, special=True)])
    return tokenizer


@pytest.mark.parametrize("prefix", ["legacy", "always", "first", "never"])
def test_sentence_piece_styles_give_the_ids_of_the_library(prefix):
    tokenizer = from_json(sentence_piece_style(prefix).to_str())
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}<s>a {{ m.content }} b{% else %} {{ m.content }}</s>"
        "{% endif %}{% endfor %}"
    )
    turns = [("user", "ab"), ("assistant", "ba ab"), ("user", "b<|end|>  a"), ("assistant", "a")]
    unit = build_chat(template, turns, tokenizer=tokenizer)
    library = from_json(tokenizer.to_str())
    library.encode_special_tokens = False
    unforged = [(role, content.replace("<|end|>", "")) for role, content in turns]
    whole = "<s>a ab b ba ab</s><s>a b  a b a</s>"
    expected = library.encode(whole, add_special_tokens=False).ids
    assert build_chat(template, unforged, tokenizer=tokenizer).input_ids.tolist() == expected
    assert tokenizer.token_to_id("<|end|>") not in unit.input_ids
    targets = [tokenizer.id_to_token(number) for number in unit.input_ids[unit.is_target]]
    assert targets == ["▁b", "a", "▁a", "b", "</s>", "▁a", "</s>"]


def test_a_tokenizer_with_unknown_rules_at_special_tokens_is_refused():
    tokenizer = special_tokenizer()
    tokenizer.add_special_tokens([AddedToken("<|one|>", single_word=True, special=True)])
    with pytest.raises(ValueError, match=r"beside special tokens .* choose another dataset.tokenizer.base"):
        ConversationEncoder(from_json(tokenizer.to_str()))


def test_the_template_is_that_of_the_configuration_or_of_the_tokenizer(tmp_path):
    config = {"chat_template": "of the config", "eos_token": {"content": END}, "bos_token": BEGIN}
    folder = write_model_folder(tmp_path / "m", special_tokenizer(), tokenizer_config=config)
    found = load_chat_format(ChatRules(), str(folder))
    assert (found.template, found.variables) == ("of the config", (("bos_token", BEGIN), ("eos_token", END)))
    several = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "of several"}]
    write_model_folder(folder, special_tokenizer(), tokenizer_config={"chat_template": several})
    assert load_chat_format(ChatRules(), str(folder)).template == "of several"
    write_model_folder(folder, special_tokenizer(), tokenizer_config={"chat_template": several[:1]})
    with pytest.raises(ValueError, match="has chat templates named tool_use, but none named default; save"):
        load_chat_format(ChatRules(), str(folder))
    (folder / "chat_template.jinja").write_text("of the file")
    assert load_chat_format(ChatRules(), str(folder)).template == "of the file"
    (tmp_path / "own.jinja").write_text("我")
    assert load_chat_format(ChatRules(template=str(tmp_path / "own.jinja")), str(folder)).template == "我"
    assert load_chat_format(ChatRules(), None).template is None
    with pytest.raises(FileNotFoundError, match=r"no chat template .*none.jinja; set dataset.tokenizer.chat"):
        load_chat_format(ChatRules(template=str(tmp_path / "none.jinja")), None)


def test_a_changed_template_is_another_identity_for_conversations_only(tmp_path):
    folder = write_model_folder(tmp_path, train_bpe(iter(TEXTS), vocab_size=300))

    def identify(template, *, is_chat=True, **rules):
        (folder / "chat_template.jinja").write_text(template)
        choice = TokenizerChoice(base=str(folder), chat=ChatRules(**rules))
        return identify_tokenizer(choice, is_chat=is_chat)

    assert identify("a") == identify("a")
    others = [identify("b"), identify("a", date="2026-01-02"), identify("a", roles={"bot": "assistant"})]
    assert identify("a") not in others
    assert identify("a", is_chat=False) == identify("b", is_chat=False, date="2026-01-02")


def test_a_tokenizer_without_an_end_token_says_what_chat_needs_it_for():
    chosen = ChosenTokenizer(special_tokenizer(), None, "m names none")
    with pytest.raises(
        ValueError, match=r"chat needs an end-of-text token, .* a turn of the assistant: m names"
    ):
        chosen.require_end_token("chat")


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"roles": {"bot": "robot"}}, "roles must lead to system, .*; got robot"),
        ({"roles": {"user": "assistant"}}, "roles renames user"),
        ({"date": "2. May"}, "date must be YYYY-MM-DD, got '2. May'"),
        ({"date": "20260102"}, "date must be YYYY-MM-DD, got '20260102'"),
        ({"date": "2026-W01-1"}, "date must be YYYY-MM-DD, got '2026-W01-1'"),
        ({"date": "2026-02-30"}, "date must be YYYY-MM-DD, got '2026-02-30'"),
    ],
)
def test_impossible_rules_are_refused(rules, message):
    with pytest.raises(ValueError, match=message):
        ChatRules(**rules)
