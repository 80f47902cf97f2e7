"""A model folder and texts in, predictions out: torch and tokenizers only, so that executors and servers need no more.

Texts of similar length share a batch, which saves padding; the order given is the order returned. Shapes: B texts, T tokens,
V vocabulary, C classes.
"""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from pipelines.finetune.models.build import LoadedModel, load_model

Item = TypeVar("Item")

MAX_NEW_TOKENS = 32
"""Length of the continuation a language model gives."""
PIECE_CHARS = 65_536
"""A text is tokenised in pieces of this length: one 16 MiB document in one call would take gigabytes."""
CHARS_PER_TOKEN = 16
"""First guess of the characters that fill a classifier's window; doubled until it is full."""
DECIMALS = 6
"""Of a score: what lies beyond is float32 noise of the batch a text happened to be in."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says about one text."""

    prediction: str
    """Class name, or the greedy continuation of the text's first tokens."""
    score: float
    """Probability of the class, or bits per UTF-8 byte of the text (0 for an empty text)."""


class Predictor:
    """A loaded model. The same texts in the same call give the same predictions on the same machine.

    A text's neighbours change the shape of its batch, which moves its score by float noise (below 1e-5); its class changes
    only where two classes tie within that noise. `model_seconds` is the time spent in the model since loading.
    """

    def __init__(self, model: LoadedModel) -> None:
        self._module, self._tokenizer, self.spec = model.module.eval(), model.tokenizer, model.spec
        # A tokenizer.json may carry truncation and padding of its own; the window is the model's (max_tokens).
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._special_ids = self._tokenizer.encode("").ids
        self.model_seconds = 0.0

    @classmethod
    def load(cls, folder: Path, *, num_threads: int | None = None) -> "Predictor":
        """From a model folder; `num_threads` sets torch's threads for the whole process (null = leave them)."""
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        return cls(load_model(Path(folder)))

    @torch.inference_mode()
    def predict(
        self, texts: Sequence[str], *, batch_size: int = 32, continues: bool = True
    ) -> list[Prediction]:
        """One prediction a text, in the order given; a text beyond max_tokens is cut for classification and prompts.

        `continues`: whether a language model writes on; without, its predictions are empty and only scores are worked out.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1 text, got {batch_size}")
        if self.spec.task == "classification":
            return self._classify(texts, batch_size)
        prompts = [self._prompt(text) for text in texts] if continues else []
        continuations: list[str] = [""] * len(texts)
        for rows in _by_length(prompts, batch_size):
            for row, continuation in zip(rows, self._continue([prompts[row] for row in rows]), strict=True):
                continuations[row] = continuation
        bits = self._bits_per_byte(texts, batch_size)
        return [Prediction(prediction, score) for prediction, score in zip(continuations, bits, strict=True)]

    def _classify(self, texts: Sequence[str], batch_size: int) -> list[Prediction]:
        windows = [self._window(text) for text in texts]
        predictions: list[Prediction] = [Prediction("", 0.0)] * len(texts)
        for rows in _by_length(windows, batch_size):
            probabilities_BC = self._logits(*_pad([windows[row] for row in rows])).float().softmax(-1)
            scores_B, classes_B = probabilities_BC.max(-1)
            for row, score, number in zip(rows, scores_B.tolist(), classes_B.tolist(), strict=True):
                predictions[row] = Prediction(self.spec.labels[number], round(score, DECIMALS))
        return predictions

    def _window(self, text: str) -> list[int]:
        """At most max_tokens tokens, the tokenizer's special tokens included, from a prefix of the text that is long enough."""
        room = max(0, self.spec.max_tokens - len(self._special_ids))
        num_chars = max(1, room) * CHARS_PER_TOKEN
        while True:
            encoding = self._tokenizer.encode(text[:num_chars], add_special_tokens=False)
            # One spare token: the last one of a prefix may be half a word.
            if num_chars >= len(text) or len(encoding.ids) > room + 1:
                break
            num_chars *= 2
        encoding.truncate(room)
        # A text without tokens still gets a prediction: the model sees one padding token.
        return self._tokenizer.post_process(encoding).ids or [0]

    def _prompt(self, text: str) -> list[int]:
        room = self.spec.max_tokens - min(MAX_NEW_TOKENS, self.spec.max_tokens // 2)
        first = self._tokenizer.encode(text[: room * CHARS_PER_TOKEN], add_special_tokens=False).ids
        return [*self._special_ids[-1:], *first][:room]

    def _continue(self, prompts: list[list[int]]) -> list[str]:
        """Greedy, until the tokenizer's end token or MAX_NEW_TOKENS; without a key-value cache, as windows are short."""
        sequences = [list(prompt) for prompt in prompts]
        end = self._special_ids[-1] if self._special_ids else None
        open_rows = [row for row, prompt in enumerate(prompts) if prompt]
        for _ in range(min(MAX_NEW_TOKENS, self.spec.max_tokens // 2)):
            if not open_rows:
                break
            ids_BT, mask_BT = _pad([sequences[row] for row in open_rows])
            last_B = mask_BT.sum(1) - 1
            next_B = self._logits(ids_BT, mask_BT)[torch.arange(len(open_rows)), last_B].argmax(-1)
            for row, token in zip(open_rows, next_B.tolist(), strict=True):
                sequences[row].append(token)
            open_rows = [row for row in open_rows if sequences[row][-1] != end]
        new = [sequence[len(prompt) :] for sequence, prompt in zip(sequences, prompts, strict=True)]
        return [str(text) for text in self._tokenizer.decode_batch(new, skip_special_tokens=True)]

    def _bits_per_byte(self, texts: Sequence[str], batch_size: int) -> list[float]:
        nats = [0.0] * len(texts)
        for batch in _batched(
            ((row, window) for row, text in enumerate(texts) for window in self._windows(text)), batch_size
        ):
            ids_BT, mask_BT = _pad([window for _, window in batch])
            log_probabilities_BTV = self._logits(ids_BT, mask_BT)[:, :-1].float().log_softmax(-1)
            targets_BT1 = ids_BT[:, 1:].unsqueeze(-1)
            losses_BT = -log_probabilities_BTV.gather(-1, targets_BT1).squeeze(-1) * mask_BT[:, 1:]
            for (row, _), loss in zip(batch, losses_BT.sum(1, dtype=torch.float64).tolist(), strict=True):
                nats[row] += loss
        num_bytes = [len(text.encode()) for text in texts]
        return [
            round(nat / math.log(2) / size, DECIMALS) if size else 0.0
            for nat, size in zip(nats, num_bytes, strict=True)
        ]

    def _windows(self, text: str) -> Iterator[list[int]]:
        """Windows of max_tokens that overlap by one token, so that every token but the very first is a target exactly once.

        The tokenizer's last special token (end of the text before) opens the first window and closes the last, as in training;
        so each token of the text is predicted from at least one other.
        """
        end = self._special_ids[-1:]
        held = list(end)
        for piece in _pieces(text):
            held += self._tokenizer.encode(piece, add_special_tokens=False).ids
            while len(held) > self.spec.max_tokens:
                yield held[: self.spec.max_tokens]
                held = held[self.spec.max_tokens - 1 :]
        held += end
        while len(held) > 1:
            yield held[: self.spec.max_tokens]
            held = held[self.spec.max_tokens - 1 :]

    def _logits(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        began = time.perf_counter()
        logits = self._module(ids_BT, mask_BT)
        self.model_seconds += time.perf_counter() - began
        return logits


def _by_length(sequences: Sequence[list[int]], batch_size: int) -> Iterator[list[int]]:
    order = sorted(range(len(sequences)), key=lambda row: len(sequences[row]))
    return _batched(order, batch_size)


def _batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _pad(sequences: list[list[int]]) -> tuple[Tensor, Tensor]:
    """(ids, mask), both (B, T) long, padded on the right with id 0, which the mask hides."""
    longest = max(map(len, sequences))
    ids_BT = torch.tensor([ids + [0] * (longest - len(ids)) for ids in sequences])
    mask_BT = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in sequences])
    return ids_BT, mask_BT


def _pieces(text: str) -> Iterator[str]:
    """The text in pieces of at most PIECE_CHARS, cut before a space where there is one: tokens seldom span it."""
    start = 0
    while start < len(text):
        stop = min(start + PIECE_CHARS, len(text))
        if stop < len(text):
            space = max(text.rfind(" ", start + 1, stop), text.rfind("\n", start + 1, stop))
            stop = space if space > start else stop
        yield text[start:stop]
        start = stop
