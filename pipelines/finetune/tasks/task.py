"""What is learnt: rows to tensors, logits to loss, sums to metrics. Shapes: B sequences, T tokens, C classes, V vocabulary.

Losses are sums over targets: the loop divides by the targets of the whole global batch, so the gradient does not depend on how
rows fall to ranks and micro-batches.
"""

import math
from typing import NamedTuple, Protocol

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipelines.dataset.reader import Rows


class Batch(NamedTuple):
    inputs: dict[str, Tensor]
    targets: Tensor
    num_bytes: int
    """UTF-8 bytes behind the targets."""


class Task(Protocol):
    name: str
    metric: str

    def collate(self, rows: Rows, device: torch.device) -> Batch: ...
    def sample_text(self, model: nn.Module, tokenizer: Tokenizer, rows: Rows) -> str | None: ...

    def loss_sum(self, logits: Tensor, batch: Batch) -> Tensor:
        """Sum of the loss over the targets, in nats."""
        ...

    def sums(self, logits: Tensor, batch: Batch) -> Tensor:
        """(K,) float64 that can be added over batches and ranks."""
        ...

    def metrics(self, sums: Tensor) -> dict[str, float]: ...

    def confusion(self, sums: Tensor) -> np.ndarray | None:
        """(C, C) counts, row = expected, column = predicted; None where there are no classes."""
        ...


def collate(rows: Rows, device: torch.device) -> Batch:
    """Pad on the right to the longest row; padding is masked, so its token does not matter."""
    length = max(len(tokens) for tokens in rows.input_ids)
    input_ids = np.zeros((len(rows.input_ids), length), dtype=np.int64)
    mask = np.zeros_like(input_ids)
    for row, tokens in enumerate(rows.input_ids):
        input_ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return Batch(
        {
            "input_ids_BT": torch.from_numpy(input_ids).to(device),
            "attention_mask_BT": torch.from_numpy(mask).to(device),
        },
        torch.from_numpy(rows.targets.astype(np.int64)).to(device),
        int(rows.num_bytes.sum()),
    )


class Classification:
    """Cross-entropy over classes."""

    name, metric = "classification", "accuracy"

    def collate(self, rows: Rows, device: torch.device) -> Batch:
        return collate(rows, device)

    def sample_text(self, model: nn.Module, tokenizer: Tokenizer, rows: Rows) -> str | None:
        return None

    def __init__(self, num_labels: int) -> None:
        self._num_labels = num_labels

    def loss_sum(self, logits: Tensor, batch: Batch) -> Tensor:
        return cross_entropy(logits, batch.targets, reduction="sum")

    def sums(self, logits: Tensor, batch: Batch) -> Tensor:
        counts = torch.zeros(self._num_labels, self._num_labels, dtype=torch.float64)
        predicted = logits.argmax(-1).cpu()
        counts.index_put_(
            (batch.targets.cpu(), predicted), torch.ones(len(predicted), dtype=torch.float64), accumulate=True
        )
        return torch.cat([self.loss_sum(logits, batch).detach().double().cpu().reshape(1), counts.flatten()])

    def metrics(self, sums: Tensor) -> dict[str, float]:
        counts, rows = sums[1:].reshape(self._num_labels, self._num_labels), float(sums[1:].sum())
        f1 = 2 * counts.diagonal() / (counts.sum(0) + counts.sum(1)).clamp(min=1)
        present = counts.sum(1) > 0
        return {
            "loss": float(sums[0]) / rows,
            "accuracy": float(counts.trace()) / rows,
            "macro_f1": float(f1[present].mean()),
        }

    def confusion(self, sums: Tensor) -> np.ndarray | None:
        return sums[1:].reshape(self._num_labels, self._num_labels).numpy().astype(np.int64)


class LanguageModelling:
    """Cross-entropy of the next token; documents packed together are told apart by their end-of-text token only."""

    name, metric = "language_modelling", "bits_per_byte"

    def collate(self, rows: Rows, device: torch.device) -> Batch:
        return collate(rows, device)

    def sample_text(self, model: nn.Module, tokenizer: Tokenizer, rows: Rows) -> str | None:
        return tokenizer.decode(rows.input_ids[0].tolist())  # the tasks branch writes with the model

    def loss_sum(self, logits: Tensor, batch: Batch) -> Tensor:
        targets_BT = batch.inputs["input_ids_BT"][:, 1:].masked_fill(
            batch.inputs["attention_mask_BT"][:, 1:] == 0, -100
        )
        return cross_entropy(
            logits[:, :-1].flatten(0, 1), targets_BT.flatten(), ignore_index=-100, reduction="sum"
        )

    def sums(self, logits: Tensor, batch: Batch) -> Tensor:
        loss = self.loss_sum(logits, batch).detach().double().cpu()
        return torch.tensor(
            [loss, float(batch.inputs["attention_mask_BT"][:, 1:].sum()), batch.num_bytes],
            dtype=torch.float64,
        )

    def metrics(self, sums: Tensor) -> dict[str, float]:
        loss, tokens, num_bytes = sums.tolist()
        return {
            "loss": loss / tokens,
            "perplexity": math.exp(min(loss / tokens, 700.0)),
            "bits_per_byte": loss / math.log(2) / num_bytes,
        }

    def confusion(self, sums: Tensor) -> np.ndarray | None:
        return None
