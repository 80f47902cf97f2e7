"""Which tokens of a conversation are targets, for templates in the styles of published models."""

import random

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from tests.dataset.chat.conversations import (
    BEGIN,
    END,
    HEADER,
    HEADER_END,
    START,
    TURN_END,
    TURN_ENDS,
    build_chat,
    build_example,
    decode,
    decode_targets,
    read_template,
    special_tokenizer,
)

TURNS = [
    ("system", "Be kind."),
    ("user", "我的卡还没有到"),
    ("assistant", "你好！ It is on the way."),
    ("user", "And now?"),
    ("assistant", "它到了。"),
]
MASKS = {
    # By hand: (text, is it a target). A text is one special token, or tokens of plain text.
    "chatml": [
        *[(START, 0), ("system\nBe kind.", 0), (END, 0), ("\n", 0)],
        *[(START, 0), ("user\n我的卡还没有到", 0), (END, 0), ("\n", 0)],
        *[(START, 0), ("assistant\n", 0), ("你好！ It is on the way.", 1), (END, 1), ("\n", 0)],
        *[(START, 0), ("user\nAnd now?", 0), (END, 0), ("\n", 0)],
        *[(START, 0), ("assistant\n", 0), ("它到了。", 1), (END, 1), ("\n", 0)],
    ],
    "llama3": [
        *[(BEGIN, 0), (HEADER, 0), ("system", 0), (HEADER_END, 0), ("\n\nBe kind.", 0), (TURN_END, 0)],
        *[(HEADER, 0), ("user", 0), (HEADER_END, 0), ("\n\n我的卡还没有到", 0), (TURN_END, 0)],
        *[(HEADER, 0), ("assistant", 0), (HEADER_END, 0), ("\n\n", 0)],
        *[("你好！ It is on the way.", 1), (TURN_END, 1)],
        *[(HEADER, 0), ("user", 0), (HEADER_END, 0), ("\n\nAnd now?", 0), (TURN_END, 0)],
        *[(HEADER, 0), ("assistant", 0), (HEADER_END, 0), ("\n\n", 0), ("它到了。", 1), (TURN_END, 1)],
    ],
}
MASKS["generation"] = [(BEGIN, 0), *MASKS["chatml"]]


@pytest.mark.parametrize("name", MASKS)
def test_tokens_and_targets_equal_the_table_by_hand(name):
    tokenizer = special_tokenizer()
    unit = build_chat(read_template(name), TURNS)
    ids, is_target = [], []
    for text, target in MASKS[name]:
        number = tokenizer.token_to_id(text)
        own = [number] if text.startswith("<|") else tokenizer.encode(text, add_special_tokens=False).ids
        ids += own
        is_target += [bool(target)] * len(own)
    assert unit.input_ids.tolist() == ids
    assert unit.is_target.tolist() == is_target


@pytest.mark.parametrize("name", MASKS)
def test_ids_equal_those_of_transformers(name):
    tokenizer = special_tokenizer()
    library = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=END)
    messages = [{"role": role, "content": content} for role, content in TURNS]
    # A copy: `encode_special_tokens` is not part of the JSON, so the library sees its special tokens.
    library.backend_tokenizer.encode_special_tokens = False
    expected = library.apply_chat_template(messages, chat_template=read_template(name), tokenize=True)
    assert build_chat(read_template(name), TURNS).input_ids.tolist() == list(expected["input_ids"])


def test_targets_equal_the_assistant_mask_of_transformers():
    library = PreTrainedTokenizerFast(tokenizer_object=special_tokenizer(), bos_token=BEGIN, eos_token=END)
    library.backend_tokenizer.encode_special_tokens = False
    expected = library.apply_chat_template(
        [{"role": role, "content": content} for role, content in TURNS],
        chat_template=read_template("generation"),
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    unit = build_chat(read_template("generation"), TURNS)
    assert sum(expected["assistant_masks"]) > 10
    assert unit.is_target.astype(int).tolist() == expected["assistant_masks"]


WORDS = [
    "你好",
    "card",
    "<|im_end|>",
    "<|eot_id|>",
    "<|im_start|>assistant\n",
    "\n",
    " ",
    "😀",
    "\ufdd0",
    "\U000f0000",
]
WORDS += ["assistant", "{{ x }}", "{% generation %}", "</think>", "<|im_", "end|>", "é", "\u3000", "\r\n"]


@pytest.mark.parametrize("name", MASKS)
def test_targets_decode_to_the_contents_of_the_assistant(name):
    tokenizer, draw = special_tokenizer(), random.Random(5)
    end, trims = TURN_ENDS[name], name == "llama3"
    specials = {tokenizer.token_to_id(token) for token in (BEGIN, START, END, HEADER, HEADER_END, TURN_END)}
    forged = 0
    for _ in range(300):
        turns = [("user", "x" + "".join(draw.choices(WORDS, k=4)))]
        for _ in range(draw.randint(1, 4)):
            role = draw.choice(["assistant", "assistant", "user", "system"])
            turns.append(
                (role, draw.choice(WORDS) + "a" + "".join(draw.choices(WORDS, k=draw.randint(0, 5))))
            )
        turns.append(("assistant", "好" + draw.choice(WORDS)))
        unit = build_chat(read_template(name), turns, tokenizer=tokenizer)
        own = [content.strip() if trims else content for role, content in turns if role == "assistant"]
        assert decode_targets(tokenizer, unit) == [content + end for content in own]
        # The special tokens are those of the template, whatever the messages spell.
        plain = build_chat(read_template(name), [(role, "a") for role, _ in turns], tokenizer=tokenizer)
        found, expected = ([t for t in each.input_ids.tolist() if t in specials] for each in (unit, plain))
        assert found == expected
        forged += any("<|im_end|>" in content for _, content in turns)
    assert forged > 50


def test_characters_and_bytes_lead_back_to_the_document():
    turns = [("user", "<|im_end|> 你好"), ("tool", ""), ("assistant", " 我的卡\n\nok ")]
    text, unit = "<|im_end|> 你好\n\n 我的卡\n\nok ", build_chat(read_template("chatml"), turns)
    seen = {
        place for a, b in zip(unit.char_start, unit.char_end, strict=True) if a >= 0 for place in range(a, b)
    }
    separator = {text.index("好") + 1, text.index("好") + 2}
    assert seen == set(range(len(text))) - separator
    assert unit.num_bytes.sum() == sum(len(content.encode()) for _, content in turns)
    assert unit.num_bytes[unit.is_target].sum() == len(" 我的卡\n\nok ".encode())
    targets = unit.is_target & (unit.char_start >= 0)
    assert (unit.char_start[targets].min(), unit.char_end[targets].max()) == (
        len("<|im_end|> 你好\n\n"),
        len(text),
    )


def test_no_token_goes_across_the_end_of_a_prompt():
    tokenizer = special_tokenizer()
    template = (
        "{% for m in messages %}{{ m.role }}: the c{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}assistant: the c{% endif %}"
    )
    unit = build_chat(template, [("user", "a"), ("assistant", "ard")], tokenizer=tokenizer)
    assert decode_targets(tokenizer, unit) == ["ard" + END]
    prompt = tokenizer.encode("assistant: the c", add_special_tokens=False).ids
    first = int(np.argmax(unit.is_target))
    assert unit.input_ids[first - len(prompt) : first].tolist() == prompt
    assert tokenizer.encode("assistant: the card", add_special_tokens=False).ids[: len(prompt)] != prompt


def test_long_conversations_lose_their_end_and_count_it():
    whole = build_example(read_template("chatml"), TURNS)
    cut = build_example(read_template("chatml"), TURNS, max_tokens=40)
    size = len(whole.units[0].input_ids)
    assert (len(cut.units[0].input_ids), cut.num_cut_tokens) == (40, size - 40)
    assert size > 60
    for short, long in zip(cut.units[0], whole.units[0], strict=True):
        assert short.tolist() == long[:40].tolist()


REASONING = """{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\n' }}
{%- if message.role == 'assistant' and '</think>' in message.content %}
    {%- set thought = message.content.split('</think>')[0].split('<think>')[-1].strip('\n') %}
    {%- set answer = message.content.split('</think>')[-1].lstrip('\n') %}
    {%- if loop.last %}{{- '<think>\n' + thought + '\n</think>\n\n' }}{%- endif %}
    {{- answer }}
{%- else %}{{- message.content }}{%- endif %}
{{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""


def test_templates_may_cut_thoughts_out_of_earlier_turns():
    tokenizer = special_tokenizer()
    said = "<think>\n\n你好 so\n\n</think>\nYes"
    turns = [("user", "a"), ("assistant", said), ("user", "b"), ("assistant", said)]
    unit = build_chat(REASONING, turns, tokenizer=tokenizer)
    assert decode_targets(tokenizer, unit) == [f"Yes{END}", f"<think>\n你好 so\n</think>\n\nYes{END}"]


def test_a_thought_in_the_generation_prompt_is_no_target():
    template = read_template("chatml").replace(
        "{{ '<|im_start|>assistant\n", "{{ '<|im_start|>assistant\n<think>\n"
    )
    assert template != read_template("chatml")
    tokenizer = special_tokenizer()
    unit = build_chat(template, [("user", "a"), ("assistant", "b")], tokenizer=tokenizer)
    assert decode_targets(tokenizer, unit) == ["b" + END]


def test_contents_written_as_json_are_still_the_message():
    tokenizer = special_tokenizer()
    turns = [("user", "a"), ("tool", '{"x": "<|im_end|>\\n"}\n'), ("assistant", "b")]
    unit = build_chat(read_template("generation"), turns, tokenizer=tokenizer)
    assert '"{\\"x\\": \\"<|im_end|>\\\\n\\"}\\n"<|im_end|>' in decode(tokenizer, unit.input_ids)
    assert unit.input_ids.tolist().count(tokenizer.token_to_id(END)) == 3
    assert decode_targets(tokenizer, unit) == ["b" + END]
