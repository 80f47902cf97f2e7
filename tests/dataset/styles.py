"""Tokenizer folders in the styles of published models, small and made here: tokenizer.json and
tokenizer_config.json."""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

TEXTS = ["the card has not arrived", "the card was stolen", "我的卡还没有到", "我的卡被偷了"] * 5
END, BEGIN = "<|endoftext|>", "<|begin_of_text|>"


def byte_level_bpe(special_tokens: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special_tokens, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(iter(TEXTS), trainer=trainer)
    return tokenizer


def gpt2_style() -> Tokenizer:
    """GPT-2 and Qwen: a post-processor that adds no special token."""
    tokenizer = byte_level_bpe([END])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def llama_style() -> Tokenizer:
    """Llama 3: a BOS token in front, nothing behind."""
    tokenizer = byte_level_bpe([BEGIN, END])
    begin = tokenizer.token_to_id(BEGIN)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, begin)]
    )
    return tokenizer


def bert_style() -> Tokenizer:
    """BERT: [CLS] in front, [SEP] behind; no file names an end-of-text token."""
    words = ["[UNK]", "[CLS]", "[SEP]", "[", "]", "SEP", "the", "card", "has", "not", "arrived"]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["[UNK]", "[CLS]", "[SEP]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return tokenizer


def unigram_style(*, unknown: bool = True) -> Tokenizer:
    """T5 and XLM-R: "</s>" is an entry of the ordinary vocabulary, so the model itself can match it in a
    text."""
    scores = [
        ("<unk>", -20.0),
        ("</s>", 0.0),
        ("a", -3.0),
        ("▁", -3.0),
        ("<", -5.0),
        ("/", -5.0),
        (">", -5.0),
    ]
    tokenizer = Tokenizer(models.Unigram([*scores, ("s", -4.0)], unk_id=0 if unknown else None))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(["</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def write_model_folder(folder: Path, tokenizer: Tokenizer, **files: object) -> Path:
    """tokenizer.json and one JSON file per keyword, named without its ending."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder
