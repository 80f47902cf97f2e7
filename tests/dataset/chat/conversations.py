"""Tokenizers, templates and documents of conversations for the tests of chat."""

import re
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from pipelines.dataset.chat_format import ChatFormat
from pipelines.dataset.examples.chat import ChatExamples
from pipelines.dataset.examples.example import Document, Example, ExampleSettings, Part, Unit
from pipelines.dataset.tokenizer import from_json
from tests.dataset.styles import byte_level_bpe

BEGIN, START, END = "<|begin_of_text|>", "<|im_start|>", "<|im_end|>"
HEADER, HEADER_END, TURN_END = "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"
SPECIALS = [BEGIN, START, END, HEADER, HEADER_END, TURN_END]
TEMPLATES = Path(__file__).parent / "templates"
TURN_ENDS = {"chatml": END, "llama3": TURN_END, "generation": END}
"""Template -> the token that ends a turn of the assistant."""

Turns = list[tuple[str, str]]


def special_tokenizer() -> Tokenizer:
    """Byte-level BPE with the special tokens of ChatML and Llama 3."""
    return from_json(byte_level_bpe(SPECIALS).to_str())


def tokenizer_of(template: str, *, plain: tuple[str, ...] = (), rstrip: tuple[str, ...] = ()) -> Tokenizer:
    """Byte-level BPE whose special tokens are </s>, BEGIN, END and what a template writes as <...>. Of these,
    `plain` are added tokens that are not marked as special; `rstrip` take the white space behind them."""
    specials = ["</s>", BEGIN, END, *re.findall(r"<\|?\w+\|?>|\[/?INST\]", template)]
    own = dict.fromkeys(token for token in specials if token not in (*plain, *rstrip))
    tokenizer = byte_level_bpe(list(own))
    tokenizer.add_special_tokens([AddedToken(token, special=True, rstrip=True) for token in rstrip])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in plain])
    return from_json(tokenizer.to_str())


def read_targets(template: str, turns: Turns, *, plain=(), rstrip=(), **settings) -> list[str]:
    """The text of each run of targets, with the special tokens that the template writes."""
    tokenizer = tokenizer_of(template, plain=plain, rstrip=rstrip)
    return decode_targets(tokenizer, build_chat(template, turns, tokenizer=tokenizer, **settings))


def read_template(name: str) -> str:
    return (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


def format_of(template: str | None, *, eos: str = END, **others: object) -> ChatFormat:
    return ChatFormat(template, (("bos_token", BEGIN), ("eos_token", eos)), **others)


def document_of(turns: Turns, text: str | None = None) -> Document:
    """As the corpus stage makes it: the text is that of the turns, unless a source maps another."""
    joined = "\n\n".join(content for _, content in turns if content)
    return Document("d", joined if text is None else text, parts=tuple(Part(*turn) for turn in turns))


def build_chat(template: str | None, turns: Turns, **settings) -> Unit:
    """The tokens of one conversation."""
    (unit,) = build_example(template, turns, **settings).units
    return unit


def build_example(
    template: str | None, turns: Turns, *, tokenizer=None, roles=(), date=None, eos=END, **settings
) -> Example:
    chat = format_of(template, roles=roles, date=date, eos=eos)
    builder = ChatExamples(tokenizer or special_tokenizer(), ExampleSettings(chat=chat, **settings))
    (example,) = builder.build([document_of(turns)])
    return require_learnable(example)


def require_learnable(example: Example) -> Example:
    """Raises ValueError with the problem of the example."""
    if example.problem is not None:
        raise ValueError(f"document {example.doc_id}: {example.problem}")
    return example


def decode(tokenizer: Tokenizer, ids) -> str:
    return tokenizer.decode([int(number) for number in ids], skip_special_tokens=False)


def decode_targets(tokenizer: Tokenizer, unit: Unit) -> list[str]:
    """The text of each run of targets."""
    runs: list[list[int]] = []
    for place, (number, is_target) in enumerate(zip(unit.input_ids, unit.is_target, strict=True)):
        if is_target:
            if not runs or not unit.is_target[place - 1]:
                runs.append([])
            runs[-1].append(number)
    return [decode(tokenizer, run) for run in runs]
