"""Language modelling: cross-entropy of the next token of a document. Shapes: B sequences, T tokens, V
vocabulary.

Training counts every token but the first of a document or of a row, and the bytes behind those tokens.
Scoring a text (`predict`) counts the same: the tokens of the document as the dataset stage makes them, each
predicted from the tokens before it, the first one not. One difference is left: training cuts a long document
where a row ends and does not count the first token after the cut; scoring lets windows overlap by one token,
so it counts that one.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipelines.dataset.examples.example import Document
from pipelines.dataset.rows import NO_LABEL, Rows
from pipelines.finetune.models.architecture import ModelSpec
from pipelines.finetune.models.decoder import Decoder
from pipelines.finetune.models.generate import generate_greedily
from pipelines.finetune.models.padding import make_inputs, pad, send, stack
from pipelines.finetune.tasks.reading import OpenReader, Reader, Reading, Window
from pipelines.finetune.tasks.task import Batch, Draw, Prediction
from pipelines.finetune.tasks.texts import TextReader, batch_by_length, batched
from pipelines.metrics import METRICS

MAX_NEW_TOKENS = 32
"""Most tokens of a continuation."""
UNREADABLE_BITS = 8.0
"""Bits per byte of a conversation that cannot be written: as if all bytes were alike."""
NUM_SAMPLES, PROMPT_TOKENS = 4, 24
"""Held-out rows that `sample_text` continues, and the tokens it starts from."""


class LanguageModelling:
    """A causal decoder."""

    name, metric, auto_class = "language_modelling", "bits_per_byte", "AutoModelForCausalLM"
    compares_rows = False

    def __init__(
        self,
        spec: ModelSpec,
        *,
        name: str = name,
        open_reader: OpenReader = TextReader,
        max_new_tokens: int | None = None,
    ) -> None:
        """`open_reader`: how documents are read. A prompt leaves MAX_NEW_TOKENS of max_tokens, or half if the
        model has fewer than twice that. A continuation has as many; with `max_new_tokens`, what its prompt
        leaves, at most these.
        """
        self.name, self._max_tokens = name, spec.max_tokens
        reserve = min(MAX_NEW_TOKENS, spec.max_tokens // 2)
        self._max_prompt_tokens = spec.max_tokens - reserve
        self._max_new_tokens = reserve if max_new_tokens is None else max_new_tokens
        self._open_reader = lru_cache(maxsize=1)(lambda tokenizer: open_reader(tokenizer, spec))

    def build_module(self, backbone: Any) -> nn.Module:
        return Decoder(backbone)

    def count_targets(self, num_targets: np.ndarray) -> np.ndarray:
        return num_targets

    def collate(self, rows: Rows, device: torch.device, draw: Draw | None = None) -> Batch:
        """Rows of one document each get a mask only; if one row is packed, all get positions and segments."""
        ids_BT, is_target_BT = stack(rows.input_ids, np.int32), stack(rows.is_target, np.bool_)
        inputs = make_inputs(ids_BT, rows.segment_lengths, device)
        targets_BT = np.where(is_target_BT, ids_BT, np.int32(NO_LABEL))
        targets = send(targets_BT, device)
        return Batch({**inputs, "targets_BT": targets}, targets, int(rows.num_bytes.sum()))

    def loss_sum(self, outputs: Tensor, batch: Batch) -> Tensor:
        if outputs.dim() == 1:  # the decoder has computed the loss of each target
            return outputs.sum()
        # The logits at a token predict the token after it.
        targets = batch.targets[:, 1:].flatten().long()
        logits = outputs[:, :-1].flatten(0, 1)
        return cross_entropy(logits, targets, ignore_index=NO_LABEL, reduction="sum")

    def row_losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        targets_BT = batch.targets[:, 1:]
        if outputs.dim() == 1:
            counts_BT = targets_BT != NO_LABEL
            losses_BT = outputs.new_zeros(counts_BT.shape).masked_scatter(counts_BT, outputs)
            return losses_BT.sum(1)
        # One row after the other: the softmax of all of them would need the memory of the logits again.
        pairs = zip(outputs[:, :-1], targets_BT.long(), strict=True)
        losses = [cross_entropy(*pair, ignore_index=NO_LABEL, reduction="sum") for pair in pairs]
        return torch.stack(losses)

    def sums(self, outputs: Tensor, batch: Batch, total: Tensor | None = None) -> Tensor:
        """K = 3: loss in nats, number of targets, bytes behind them."""
        nats = self.loss_sum(outputs, batch).detach().double()
        num_targets = (batch.targets[:, 1:] != NO_LABEL).sum().double()
        sums = torch.stack([nats, num_targets, torch.full_like(nats, float(batch.num_bytes))])
        return sums if total is None else total.add_(sums)

    def metrics(self, sums: Tensor) -> dict[str, float]:
        known = dict(zip(("nats", "num_targets", "num_bytes"), sums.tolist(), strict=True))
        return {name: METRICS[name].compute(known) for name in ("loss", "perplexity", "bits_per_byte")}

    def confusion(self, sums: Tensor) -> np.ndarray | None:
        return None

    def sample_text(self, model: nn.Module, tokenizer: Tokenizer, rows: Rows) -> str | None:
        """What the model writes after the beginnings of the first rows; None if there are no rows.

        The beginning is that of the row's first document, so that the prompt is one text. It reaches to the
        first target where some tokens before it are none, as in a conversation.
        """
        room = self._max_prompt_tokens
        prompts = [
            _choose_prompt(tokens[: int(lengths[0])], is_target[: int(lengths[0])], room)
            for tokens, is_target, lengths in zip(
                rows.input_ids[:NUM_SAMPLES], rows.is_target, rows.segment_lengths, strict=False
            )
        ]
        if not prompts:
            return None
        was_training = model.training
        model.eval()
        try:
            new = self._generate(model, self._open_reader(tokenizer), prompts)
        finally:
            model.train(was_training)
        pairs = zip(prompts, new, strict=True)
        parts = [f"[prompt] {tokenizer.decode(prompt)}\n[model]  {text}" for prompt, text in pairs]
        return "\n\n".join(parts) + "\n"

    def predict(
        self,
        model: nn.Module,
        tokenizer: Tokenizer,
        documents: Sequence[Document],
        *,
        batch_size: int,
        generate: bool = True,
    ) -> list[Prediction]:
        """The greedy continuation of the document's prompt, and the bits per byte of its targets.

        `generate=False` leaves the continuations empty, which take most of the time. A document without a
        token that is predicted from another scores 0; one that cannot be read UNREADABLE_BITS, if it has
        bytes.
        """
        reader = self._open_reader(tokenizer)
        readings = reader.read(documents, with_prompts=generate)
        continuations = [""] * len(documents)
        if generate:
            prompts = [reading.prompt(self._max_prompt_tokens) for reading in readings]
            for rows in batch_by_length(prompts, batch_size):
                written = self._generate(model, reader, [prompts[row] for row in rows])
                for row, text in zip(rows, written, strict=True):
                    continuations[row] = text
        bits = self._bits_per_byte(model, readings, batch_size)
        return [
            Prediction(text, score, reading.num_bytes, reading.problem)
            for text, score, reading in zip(continuations, bits, readings, strict=True)
        ]

    def _generate(self, model: nn.Module, reader: Reader, prompts: list[list[int]]) -> list[str]:
        room = [min(self._max_new_tokens, self._max_tokens - len(prompt)) for prompt in prompts]
        new = generate_greedily(model, prompts, max_new_tokens=room, stop_ids=reader.stop_ids)
        return reader.decode(new)

    def _bits_per_byte(self, model: nn.Module, readings: Sequence[Reading], batch_size: int) -> list[float]:
        device = next(model.parameters()).device
        nats = [0.0] * len(readings)
        is_scored = [False] * len(readings)
        windows = (
            (row, window)
            for row, reading in enumerate(readings)
            for window in reading.windows(self._max_tokens)
        )
        for batch in batched(windows, batch_size):
            ids_BT, mask_BT = pad([window.input_ids for _, window in batch], device)
            counts_BT = _mask_targets([window for _, window in batch], mask_BT)
            logits_BTV = model(input_ids_BT=ids_BT, attention_mask_BT=mask_BT)
            log_probabilities_BTV = logits_BTV[:, :-1].float().log_softmax(-1)
            targets_BT1 = ids_BT[:, 1:].long().unsqueeze(-1)
            losses_BT = -log_probabilities_BTV.gather(-1, targets_BT1).squeeze(-1) * counts_BT[:, 1:]
            for (row, _), loss in zip(batch, losses_BT.sum(1, dtype=torch.float64).tolist(), strict=True):
                nats[row] += loss
                is_scored[row] = True
        scores = []
        for reading, nat, has_windows in zip(readings, nats, is_scored, strict=True):
            size = reading.num_bytes
            bits = nat / math.log(2) / size if size else 0.0
            scores.append(bits if has_windows or not size else UNREADABLE_BITS)
        return scores


def _mask_targets(windows: Sequence[Window], mask_BT: Tensor) -> Tensor:
    """(B, T) bool: tokens that count."""
    if all(window.is_target is None for window in windows):
        return mask_BT
    counts_BT = np.zeros(tuple(mask_BT.shape), dtype=bool)
    for row, window in enumerate(windows):
        size = len(window.input_ids)
        counts_BT[row, :size] = True if window.is_target is None else window.is_target
    return torch.from_numpy(counts_BT).to(mask_BT.device)


def _choose_prompt(tokens: np.ndarray, is_target: np.ndarray, room: int) -> list[int]:
    """The tokens before the first target of a document, at most the last `room` of them; if every token but
    the first is a target, its first PROMPT_TOKENS, or `room`."""
    first = int(np.argmax(is_target))
    prompt = tokens[:first][-room:] if first > 1 else tokens[: min(PROMPT_TOKENS, room)]
    return [int(token) for token in prompt]
