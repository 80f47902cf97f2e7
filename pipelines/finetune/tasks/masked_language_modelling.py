"""Masked language modelling: cross-entropy of masked tokens, predicted from both sides. Shapes: B sequences,
T tokens, V vocabulary, N masked tokens.

Masks are drawn when rows become tensors (masking.py). Evaluations and scores mask EVALUATION_FRACTION of the
tokens, the same ones every time, whatever the training masks: so the values of all models compare.

Bits per byte are those of the masked tokens over the bytes that they stand for. Bytes are known by row only,
so a masked token counts as many as a token of its row has on average. Scoring a text does the same, with one
draw of masks that depends on the text alone.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipelines.dataset.examples.encode import find_frame
from pipelines.dataset.examples.example import Document
from pipelines.dataset.rows import NO_LABEL, Rows
from pipelines.finetune.models.architecture import ModelSpec
from pipelines.finetune.models.masked_encoder import MaskedEncoder
from pipelines.finetune.models.padding import make_inputs, send, stack
from pipelines.finetune.tasks.masking import MaskRule, count_masked, mask_tokens
from pipelines.finetune.tasks.task import Batch, Draw, Prediction
from pipelines.finetune.tasks.texts import ForgedTokens, batched, split_text
from pipelines.metrics import METRICS

EVALUATION_FRACTION = 0.15
"""Share of the tokens that an evaluation masks: BERT's."""


class MaskedLanguageModelling:
    """An encoder with the head that its architecture has for this."""

    name, metric, auto_class = "masked_language_modelling", "bits_per_byte", "AutoModelForMaskedLM"
    compares_rows = False

    def __init__(self, spec: ModelSpec) -> None:
        if spec.mask_token_id is None or spec.vocab_size is None or spec.mask_fraction is None:
            raise ValueError(
                "masked_language_modelling needs mask_token_id, vocab_size and mask_fraction of a model; run "
                "the dataset stage with this task"
            )
        self._max_tokens = spec.max_tokens
        self._rule = MaskRule(spec.mask_fraction, spec.mask_token_id, spec.vocab_size)

    def build_module(self, backbone: Any) -> nn.Module:
        return MaskedEncoder(backbone)

    def count_targets(self, num_targets: np.ndarray) -> np.ndarray:
        return count_masked(num_targets, self._rule.fraction)

    def collate(self, rows: Rows, device: torch.device, draw: Draw | None = None) -> Batch:
        assert draw is not None, "the loop and the evaluation draw"
        rule = self._rule if draw.step is not None else self._rule._replace(fraction=EVALUATION_FRACTION)
        seen_BT = stack(rows.input_ids, np.int32)
        targets_BT = np.full_like(seen_BT, NO_LABEL)
        tokens_of = zip(rows.input_ids, rows.is_target, draw.rows.tolist(), strict=True)
        for row, (tokens, is_target, sequence) in enumerate(tokens_of):
            seen_BT[row, : len(tokens)], masked = mask_tokens(
                tokens, is_target, rule, seed=draw.seed, step=draw.step or 0, sequence=sequence
            )
            targets_BT[row, masked] = tokens[masked]
        inputs = make_inputs(seen_BT, rows.segment_lengths, device)
        share_B = count_masked(rows.num_targets, rule.fraction) / np.maximum(rows.num_targets, 1)
        num_bytes = float((rows.num_bytes * share_B).sum())
        return Batch(inputs, send(targets_BT, device), num_bytes)

    def loss_sum(self, outputs: Tensor, batch: Batch) -> Tensor:
        is_masked_BT = batch.targets != NO_LABEL
        logits_NV = outputs[is_masked_BT]  # the loss copies them: only those that count
        return cross_entropy(logits_NV, batch.targets[is_masked_BT].long(), reduction="sum")

    def row_losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        is_masked_BT = batch.targets != NO_LABEL
        losses_N = cross_entropy(outputs[is_masked_BT], batch.targets[is_masked_BT].long(), reduction="none")
        return losses_N.new_zeros(is_masked_BT.shape).masked_scatter(is_masked_BT, losses_N).sum(1)

    def sums(self, outputs: Tensor, batch: Batch, total: Tensor | None = None) -> Tensor:
        """K = 3: loss in nats, number of masked tokens, bytes behind them."""
        nats = self.loss_sum(outputs, batch).detach().double()
        num_targets = (batch.targets != NO_LABEL).sum().double()
        sums = torch.stack([nats, num_targets, torch.full_like(nats, batch.num_bytes)])
        return sums if total is None else total.add_(sums)

    def metrics(self, sums: Tensor) -> dict[str, float]:
        known = dict(zip(("nats", "num_targets", "num_bytes"), sums.tolist(), strict=True))
        return {name: METRICS[name].compute(known) for name in ("loss", "perplexity", "bits_per_byte")}

    def confusion(self, sums: Tensor) -> np.ndarray | None:
        return None

    def sample_text(self, model: nn.Module, tokenizer: Tokenizer, rows: Rows) -> str | None:
        return None

    def predict(
        self,
        model: nn.Module,
        tokenizer: Tokenizer,
        documents: Sequence[Document],
        *,
        batch_size: int,
        generate: bool = True,
    ) -> list[Prediction]:
        """No text, and the bits per byte of the masked tokens of the text. A text without tokens scores 0."""
        texts = [document.text for document in documents]
        device = next(model.parameters()).device
        encoder = _WindowEncoder(tokenizer, self._max_tokens)
        nats, num_masked, num_tokens = (np.zeros(len(texts)) for _ in range(3))
        windows = ((row, window) for row, text in enumerate(texts) for window in encoder.encode(text))
        for batch in batched(windows, batch_size):
            numbers = np.array([row for row, _ in batch])
            tensors = self.collate(
                encoder.to_rows([window for _, window in batch]),
                device,
                Draw(np.array([_hash_tokens(window) for _, window in batch]), seed=0, step=None),
            )
            logits_BTV = model(**tensors.inputs).float()
            is_masked_BT = tensors.targets != NO_LABEL
            losses_BT = torch.zeros(tensors.targets.shape, dtype=torch.float64, device=device)
            losses_BT[is_masked_BT] = cross_entropy(
                logits_BTV[is_masked_BT], tensors.targets[is_masked_BT].long(), reduction="none"
            ).double()
            np.add.at(nats, numbers, losses_BT.sum(1).cpu().numpy())
            np.add.at(num_masked, numbers, is_masked_BT.sum(1).cpu().numpy())
            np.add.at(num_tokens, numbers, [window.num_text_tokens for _, window in batch])
        num_bytes = np.array([len(text.encode()) for text in texts]) * num_masked / np.maximum(num_tokens, 1)
        bits = np.divide(nats / math.log(2), num_bytes, out=np.zeros(len(texts)), where=num_bytes > 0)
        return [
            Prediction("", score, len(text.encode()))
            for text, score in zip(texts, bits.tolist(), strict=True)
        ]


class _Window(NamedTuple):
    """Some tokens of a text between the special tokens that frame it."""

    input_ids: np.ndarray
    """(num_tokens,) int32."""
    num_text_tokens: int


class _WindowEncoder:
    """Texts to windows that do not overlap, of at most `max_tokens` with the frame."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int) -> None:
        self._tokenizer, self._forged = tokenizer, ForgedTokens(tokenizer)
        self._opening, self._closing = find_frame(tokenizer)
        self._room = max(1, max_tokens - len(self._opening) - len(self._closing))

    def encode(self, text: str) -> Iterator[_Window]:
        held: list[int] = []
        for piece in split_text(text):
            held += self._forged.replace(self._tokenizer.encode(piece, add_special_tokens=False).ids)
            while len(held) > self._room:
                yield self._frame(held[: self._room])
                held = held[self._room :]
        if held:
            yield self._frame(held)

    def to_rows(self, windows: Sequence[_Window]) -> Rows:
        """Every token of the text may be masked. Bytes are counted by text, not by window."""
        front = len(self._opening)
        counts = np.array([window.num_text_tokens for window in windows], dtype=np.int64)
        places = [np.arange(len(window.input_ids)) - front for window in windows]
        return Rows(
            input_ids=[window.input_ids for window in windows],
            is_target=[(place >= 0) & (place < count) for place, count in zip(places, counts, strict=True)],
            segment_lengths=[np.array([len(window.input_ids)]) for window in windows],
            labels=np.full(len(windows), NO_LABEL),
            num_targets=counts,
            num_bytes=np.zeros(len(windows), dtype=np.int64),
        )

    def _frame(self, tokens: list[int]) -> _Window:
        return _Window(np.array([*self._opening, *tokens, *self._closing], dtype=np.int32), len(tokens))


def _hash_tokens(window: _Window) -> int:
    """63 bits that depend on the tokens alone."""
    digest = hashlib.blake2b(window.input_ids.astype("<i4").tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
