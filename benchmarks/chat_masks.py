"""The loss masks of chat beside TRL's `assistant_only_loss`: the dialogues of CrossWOZ with three templates.

    python -m benchmarks.chat_masks FOLDER/val.jsonl.gz FOLDER/test.jsonl.gz

TRL needs {% generation %} blocks, which a person must have written into the template around the assistant's
turns. Ours gets the same templates without the blocks and knows the turns by the origin of each character.
TRL's labels are those of an SFTTrainer's own data set and collator; `benchmarks.peers` installs it.

The tokenizer is byte-level BPE trained on the texts of the dialogues; every second dialogue begins with a
system message. Where both write the same tokens, masks are compared token by token, else byte by byte: TRL
encodes a whole conversation, ours never joins the end of a prompt with the beginning of an answer in a token,
as no model ever reads them so.

Exit status: 0 if no mask differs, 1 if one does, 2 if something failed.
"""

import gzip
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from operator import ne
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from tokenizers import AddedToken, Tokenizer

from benchmarks.measuring import run_benchmark
from benchmarks.peers import ask_peer, find_peer
from jobs.shell.display import console
from pipelines.dataset.chat_format import ChatFormat
from pipelines.dataset.examples.chat import ChatExamples
from pipelines.dataset.examples.example import Document, ExampleSettings, Part
from pipelines.dataset.tokenizer import from_json, train_bpe

RESULT = Path(__file__).parent / "results" / "chat_masks.json"
VOCAB_SIZE = 4_000
BEGIN, END, TURN_END = "<s>", "</s>", "<|im_end|>"
SPECIALS = [BEGIN, END, "<|im_start|>", TURN_END, "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
SYSTEM = "你是一个热心的客服。"
TEMPLATES = {
    "chatml": """{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' %}
        {%- generation %}{{- message.content + '<|im_end|>' }}{%- endgeneration %}
        {{- '\\n' }}
    {%- else %}
        {{- message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}""",
    "llama3": """{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}
    {%- if message.role == 'assistant' %}
        {%- generation %}{{- message.content | trim + '<|eot_id|>' }}{%- endgeneration %}
    {%- else %}
        {{- message.content | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}""",
    "zephyr": """{%- for message in messages %}
    {{- '<|' + message.role + '|>\\n' }}
    {%- if message.role == 'assistant' %}
        {%- generation %}{{- message.content + eos_token }}{%- endgeneration %}
        {{- '\\n' }}
    {%- else %}
        {{- message.content + eos_token + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{%- endif %}""",
}
"""Of Qwen 2.5, Llama 3 and Zephyr, with the blocks that TRL needs. Zephyr's names of roles are plain text."""

TRL = """
import json, sys
import trl
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

folder, template, dialogues, output, scratch = sys.argv[1:]
tokenizer = PreTrainedTokenizerFast(
    tokenizer_file=f"{folder}/tokenizer.json", bos_token="<s>", eos_token="</s>", pad_token="</s>")
tokenizer.chat_template = open(template, encoding="utf-8").read()
rows = [{"messages": messages} for messages in json.load(open(dialogues, encoding="utf-8"))]
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
    num_attention_heads=1, max_position_embeddings=64))
config = trl.SFTConfig(
    output_dir=scratch, assistant_only_loss=True, max_length=None, use_cpu=True, bf16=False, report_to=[])
data = Dataset.from_list(rows)
trainer = trl.SFTTrainer(model=model, args=config, train_dataset=data, processing_class=tokenizer)
with open(output, "w") as file:
    for row in trainer.train_dataset:
        labels = trainer.data_collator([row])["labels"][0].tolist()
        file.write(json.dumps([row["input_ids"], [label != -100 for label in labels]]) + "\\n")
print(json.dumps({"dialogues": len(trainer.train_dataset)}))
"""
"""Arguments: folder of the tokenizer, template, dialogues as JSON, output, folder to work in."""

Messages = list[dict[str, str]]


class Masked(NamedTuple):
    """A conversation as one side writes it."""

    ids: list[int]
    is_target: list[bool]


def read_dialogues(files: Sequence[Path]) -> list[Messages]:
    """User and assistant in turns; the agent of CrossWOZ is called system there."""
    roles = {"user": "user", "system": "assistant"}
    dialogues: list[Messages] = []
    for file in files:
        for line in gzip.decompress(file.read_bytes()).decode().splitlines():
            turns = json.loads(line)["turns"]
            messages = [{"role": roles[turn["role"]], "content": turn["text"]} for turn in turns]
            opening = [{"role": "system", "content": SYSTEM}] if len(dialogues) % 2 else []
            dialogues.append([*opening, *messages])
    return dialogues


def make_tokenizer(dialogues: Sequence[Messages]) -> Tokenizer:
    """BPE of the texts, joined as the corpus stage joins the turns of a document, with the special tokens."""
    texts = ("\n\n".join(message["content"] for message in messages) for messages in dialogues)
    trained = train_bpe(texts, vocab_size=VOCAB_SIZE)
    trained.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    settings = json.loads(trained.to_str())
    settings["post_processor"] = None  # a conversation ends where its template ends it
    return from_json(json.dumps(settings))


def write_ours(tokenizer: Tokenizer, template: str, dialogues: Sequence[Messages]) -> Iterator[Masked]:
    """The examples of task chat. Raises ValueError if one is refused."""
    chat = ChatFormat(template, (("bos_token", BEGIN), ("eos_token", END)))
    builder = ChatExamples(tokenizer, ExampleSettings(chat=chat))
    documents = [
        Document(
            str(number),
            "\n\n".join(message["content"] for message in messages),
            parts=tuple(Part(message["role"], message["content"]) for message in messages),
        )
        for number, messages in enumerate(dialogues)
    ]
    for example in builder.build(documents):
        if example.problem is not None:
            raise ValueError(f"dialogue {example.doc_id}: {example.problem}")
        (unit,) = example.units
        yield Masked(unit.input_ids.tolist(), unit.is_target.tolist())


def write_theirs(
    tokenizer: Tokenizer, template: str, dialogues: Sequence[Messages], folder: Path
) -> list[Masked]:
    """The labels of TRL. Raises RuntimeError if its environment is not installed."""
    python = find_peer("trl")
    if python is None:
        raise RuntimeError("the environment of TRL is not installed; run: python -m benchmarks.peers")
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    (folder / "template.jinja").write_text(template, encoding="utf-8")
    (folder / "dialogues.json").write_text(json.dumps(dialogues), encoding="utf-8")
    names = ("template.jinja", "dialogues.json", "masks.jsonl", "scratch")
    ask_peer(python, TRL, folder, *(folder / name for name in names))
    return [Masked(*json.loads(line)) for line in (folder / "masks.jsonl").read_text().splitlines()]


def mark_bytes(masked: Masked, tokenizer: Tokenizer) -> list[tuple[int, bool]]:
    """Every byte that the tokens stand for, and whether it is a target. A byte-level token has a letter for
    each of its bytes, a special one stands for its text."""
    special = {number: token.content for number, token in tokenizer.get_added_tokens_decoder().items()}
    letters = {letter: byte for byte, letter in bytes_to_letters().items()}
    marked = []
    for number, is_target in zip(*masked, strict=True):
        if number in special:
            content = list(special[number].encode())
        else:
            content = [letters[letter] for letter in str(tokenizer.id_to_token(number))]
        marked += [(byte, is_target) for byte in content]
    return marked


def bytes_to_letters() -> dict[int, str]:
    """GPT-2's letters of the bytes (Radford 2019): printable ones stand for themselves."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + at) for at, byte in enumerate(others)}


def compare(ours: Sequence[Masked], theirs: Sequence[Masked], tokenizer: Tokenizer) -> dict[str, int]:
    """Counts of what was compared and what differs."""
    found = dict.fromkeys(
        ("dialogues", "tokens", "targets", "other_tokens", "different_tokens", "bytes", "different_bytes"), 0
    )
    for mine, other in zip(ours, theirs, strict=True):
        found["dialogues"] += 1
        if mine.ids == other.ids:
            found["tokens"] += len(mine.ids)
            found["targets"] += sum(mine.is_target)
            found["different_tokens"] += sum(map(ne, mine.is_target, other.is_target))
            continue
        found["other_tokens"] += 1
        pairs = list(zip(mark_bytes(mine, tokenizer), mark_bytes(other, tokenizer), strict=True))
        if any(a[0] != b[0] for a, b in pairs):
            raise ValueError(f"dialogue {found['dialogues'] - 1}: the two sides write different texts")
        found["bytes"] += len(pairs)
        found["different_bytes"] += sum(a[1] != b[1] for a, b in pairs)
    return found


def measure(files: Sequence[Path]) -> dict[str, Any]:
    dialogues = read_dialogues(files)
    tokenizer, results = make_tokenizer(dialogues), {}
    for name, marked in TEMPLATES.items():
        plain = re.sub(r"\{%-? (end)?generation %\}", "", marked)
        ours = list(write_ours(tokenizer, plain, dialogues))
        with tempfile.TemporaryDirectory() as scratch:
            theirs = write_theirs(tokenizer, marked, dialogues, Path(scratch))
        results[name] = compare(ours, theirs, tokenizer)
        console.print(f"{name}: {', '.join(f'{key} {value:,}' for key, value in results[name].items())}")
    return {"templates": results}


def main(files: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False)]) -> None:
    found: dict[str, Any] = {}

    def run() -> dict[str, Any]:
        found.update(measure(files))
        return found

    run_benchmark(run, RESULT)
    if any(each["different_tokens"] or each["different_bytes"] for each in found["templates"].values()):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
