"""Tokenizers: a Hugging Face fast tokenizer by name, or BPE or Unigram over bytes, trained on the corpus.

Only the `tokenizers` library: executors need neither torch nor transformers. A tokenizer travels as its JSON
text, and the sha256 of that text is its fingerprint, stored with the sequences and with every model.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, NamedTuple

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

from pipelines.dataset.chat_format import ChatFormat
from pipelines.dataset.chat_template import find_missing_format, load_chat_format
from pipelines.dataset.end_token import find_end_token, mark_as_special
from pipelines.dataset.hub import Base, pin_base, resolve_base
from pipelines.dataset.mask_token import MASK, find_mask_token
from pipelines.dataset.tokenizer_choice import BPE, UNIGRAM, TokenizerChoice
from pipelines.dataset.unigram import train_pieces
from pipelines.storage import Folder

if TYPE_CHECKING:
    from pipelines.pin import Pin

END_OF_TEXT = "<|end_of_text|>"
PAD = "<|pad|>"
NUM_BYTES = 256
_SAVE_AGAIN = "save the model with its fast tokenizer again, or name another one"


class ChosenTokenizer(NamedTuple):
    """A tokenizer and the token that ends a document."""

    tokenizer: Tokenizer
    end_token_id: int | None
    """None = it has none."""
    fault: str = ""
    """Why it has none: shown only to a task that needs one."""
    chat: ChatFormat = ChatFormat()
    """How conversations are written; empty for a task without."""
    mask_token_id: int | None = None
    """Token that stands for a masked one; None = it has none, or the task masks nothing."""

    def require_end_token(self, task: str) -> int:
        """The end token. Raises ValueError with the remedy if there is none."""
        if self.end_token_id is None:
            raise ValueError(
                f"task {task} needs an end-of-text token, which ends a document or a turn of the assistant: "
                f"{self.fault}; or choose another dataset.tokenizer.base, or null to train one"
            )
        return self.end_token_id

    def list_masking(self, task: str) -> dict[str, int]:
        """mask_token_id and vocab_size. Raises ValueError with the remedy if there is no mask token."""
        if self.mask_token_id is None:
            raise ValueError(
                f"task {task} needs a mask token, such as [MASK], and the tokenizer has none; take an "
                "encoder's tokenizer in dataset.tokenizer.base, or null to train one"
            )
        return {"mask_token_id": self.mask_token_id, "vocab_size": self.tokenizer.get_vocab_size()}


def load_tokenizer(name: str, *, with_mask: bool = False) -> ChosenTokenizer:
    """The fast tokenizer of a model folder, package folder or hub id, with its truncation and padding
    switched off. `with_mask`: with its mask token, which becomes special."""
    base = resolve_base(name)
    chosen = _load_from(base)
    mask = find_mask_token(chosen.tokenizer, base) if with_mask else None
    if mask is not None:
        mark_as_special(chosen.tokenizer, mask)
    return chosen._replace(mask_token_id=mask)


def _load_from(base: Base) -> ChosenTokenizer:
    file = base.file("tokenizer.json")
    if file is None:
        raise FileNotFoundError(
            f"{base.pinned_name} has no tokenizer.json; save the model with its fast tokenizer first"
        )
    tokenizer = from_json(file.read_text(encoding="utf-8"), str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    try:
        end_token_id = find_end_token(tokenizer, base)
    except ValueError as error:  # a classifier does not care
        return ChosenTokenizer(tokenizer, None, str(error))
    mark_as_special(tokenizer, end_token_id)
    return ChosenTokenizer(tokenizer, end_token_id)


def wrap_trained(tokenizer: Tokenizer) -> ChosenTokenizer:
    """A tokenizer of TRAINERS with its special tokens."""
    end, mask = (tokenizer.token_to_id(token) for token in (END_OF_TEXT, MASK))
    return ChosenTokenizer(tokenizer, end, mask_token_id=mask)


def from_json(text: str, name: str = "tokenizer.json", remedy: str = _SAVE_AGAIN) -> Tokenizer:
    """A tokenizer that reads special tokens in a text as characters: "<|end_of_text|>" in a document does not
    end it.

    Raises ValueError with the name of the file and the remedy if the text is no tokenizer.
    """
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library's errors have no class of their own
        raise ValueError(
            f"{name} is no tokenizer ({error}): it has {len(text)} characters and begins with {text[:40]!r}; "
            f"{remedy}"
        ) from error
    tokenizer.encode_special_tokens = True  # not part of the JSON
    return tokenizer


def train_bpe(texts: Iterator[str], *, vocab_size: int, with_mask: bool = False) -> Tokenizer:
    """Byte-level BPE (Sennrich 2016, on bytes as in GPT-2): any text encodes, nothing is unknown, decoding
    restores the text.

    The library breaks ties between merges in the order of token ids, so equal texts in equal order give equal
    tokenizers. The tokenizer puts END_OF_TEXT behind every text. `with_mask`: it has MASK, too.
    """
    special = _list_special(vocab_size, with_mask=with_mask)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.encode_special_tokens = True
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return _end_texts(tokenizer)


def train_unigram(texts: Iterator[str], *, vocab_size: int, with_mask: bool = False) -> Tokenizer:
    """Unigram over bytes, with the same promises; fewer tokens if the texts do not have so many pieces."""
    special = _list_special(vocab_size, with_mask=with_mask)
    tokenizer = train_pieces(texts, num_pieces=vocab_size - len(special))
    tokenizer.encode_special_tokens = True
    tokenizer.add_special_tokens(special)
    return _end_texts(tokenizer)


TRAINERS = {BPE: train_bpe, UNIGRAM: train_unigram}
"""By TokenizerChoice.model."""


def _list_special(vocab_size: int, *, with_mask: bool) -> list[str]:
    """The special tokens of a trained tokenizer. Raises ValueError if the vocabulary has no room for them."""
    special = [PAD, END_OF_TEXT, *([MASK] if with_mask else [])]
    if vocab_size < NUM_BYTES + len(special):
        raise ValueError(
            f"vocab_size must be at least {NUM_BYTES + len(special)} (256 bytes and {len(special)} special "
            f"tokens), got {vocab_size}"
        )
    return special


def _end_texts(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer itself, which puts END_OF_TEXT behind every text from now on."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    tokenizer.post_processor = TemplateProcessing(
        single=f"$A {END_OF_TEXT}", special_tokens=[(END_OF_TEXT, end)]
    )
    return tokenizer


def identify_tokenizer(
    choice: TokenizerChoice, *, is_chat: bool, with_mask: bool = False
) -> dict[str, object]:
    """What the tokens of a task, with conversations or without, depend on besides documents and packing.
    `with_mask`: the task masks tokens."""
    settings = asdict(choice)
    del settings["chat"], settings["keep_trained"]
    if choice.base is not None:
        settings["base"] = pin_base(choice.base)
    if choice.model == BPE:  # the only model once: tables of that time stay up to date
        del settings["model"]
    known: dict[str, object] = {"tokenizer": settings, "tokenizer_identity": tokenizer_identity(choice)}
    if is_chat:  # "chat" named it when the format was not kept beside the tokenizer
        known["chat_format"] = load_chat_format(choice.chat, choice.base).fingerprint
    # A commit or version holds the files that name it; of a trained tokenizer it follows from the task.
    if with_mask and choice.base is not None and resolve_base(choice.base).is_folder:
        known["mask_token_id"] = load_tokenizer(choice.base, with_mask=True).mask_token_id
    return known


def tokenizer_identity(choice: TokenizerChoice) -> list[object] | None:
    """What distinguishes another tokenizer under the same name; None = one that is trained, which follows
    from the documents.

    A folder: fingerprint and end token. A hub id: its commit, an artefact of MLflow: its version, so that
    nothing is downloaded to plan.
    """
    if choice.base is None:
        return None
    base = resolve_base(choice.base)
    if base.commit is not None:
        return [base.place, base.commit]
    if base.artefact is not None:
        return base.artefact.identity
    loaded = _load_from(base)
    return [tokenizer_fingerprint(loaded.tokenizer), loaded.end_token_id]


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """sha256 of the tokenizer's JSON, first 32 hex digits."""
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()[:32]


def write_tokenizer(tokenizer: Tokenizer, folder: str) -> str:
    """Keep the tokenizer in `folder` under its fingerprint, and return the fingerprint."""
    name = tokenizer_fingerprint(tokenizer)
    Folder(folder).write(f"{name}.json", tokenizer.to_str().encode())
    return name


def read_tokenizer(folder: str, fingerprint: str) -> Tokenizer:
    """The tokenizer kept under `fingerprint`.

    Raises ValueError if the file is no tokenizer, or one with another fingerprint.
    """
    files, name = Folder(folder), f"{fingerprint}.json"
    if not files.exists(name):
        raise FileNotFoundError(
            f"no tokenizer {fingerprint} in {folder}; "
            "delete the sequences table and run the dataset stage again"
        )
    remedy = "delete it and the sequences table, then run the dataset stage"
    tokenizer = from_json(files.read(name).decode(), f"{folder}/{name}", remedy)
    if tokenizer_fingerprint(tokenizer) != fingerprint:
        raise ValueError(f"{folder}/{name} was changed after it was written; {remedy}")
    return tokenizer


def find_missing_tokenizer(folder: str, sequences: "Pin") -> str:
    """A sentence if the tokenizer of the sequences or its chat format is not in `folder`; "" if they are."""
    name = sequences.facts["tokenizer"]
    if not Folder(folder).exists(f"{name}.json"):
        return f"tokenizer {name} is not in {folder}"
    return find_missing_format(folder, sequences)
