"""What is learnt: rows to tensors, logits to loss, sums to metrics. Shapes: B sequences, T tokens, C classes, V vocabulary.

Losses are sums over targets: the loop divides by the targets of the whole global batch, so the gradient does not depend on how
rows fall to ranks and micro-batches.
"""

import math
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pipelines.dataset.reader import Rows
from pipelines.finetune.models.build import ModelSpec


class Batch(NamedTuple):
    input_ids_BT: Tensor
    attention_mask_BT: Tensor
    targets_B: Tensor
    """Class numbers; unused in language modelling."""
    num_bytes: int
    """UTF-8 bytes behind the targets."""


class Task(Protocol):
    metric: str
    """The number that says which checkpoint is best."""
    higher_is_better: bool

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
        torch.from_numpy(input_ids).to(device),
        torch.from_numpy(mask).to(device),
        torch.from_numpy(rows.labels.astype(np.int64)).to(device),
        int(rows.num_bytes.sum()),
    )


class Classification:
    """Cross-entropy over classes."""

    metric, higher_is_better = "accuracy", True

    def __init__(self, num_labels: int) -> None:
        self._num_labels = num_labels

    def loss_sum(self, logits: Tensor, batch: Batch) -> Tensor:
        return cross_entropy(logits, batch.targets_B, reduction="sum")

    def sums(self, logits: Tensor, batch: Batch) -> Tensor:
        counts = torch.zeros(self._num_labels, self._num_labels, dtype=torch.float64)
        predicted = logits.argmax(-1).cpu()
        counts.index_put_(
            (batch.targets_B.cpu(), predicted),
            torch.ones(len(predicted), dtype=torch.float64),
            accumulate=True,
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

    metric, higher_is_better = "bits_per_byte", False

    def loss_sum(self, logits: Tensor, batch: Batch) -> Tensor:
        targets_BT = batch.input_ids_BT[:, 1:].masked_fill(batch.attention_mask_BT[:, 1:] == 0, -100)
        return cross_entropy(
            logits[:, :-1].flatten(0, 1), targets_BT.flatten(), ignore_index=-100, reduction="sum"
        )

    def sums(self, logits: Tensor, batch: Batch) -> Tensor:
        loss = self.loss_sum(logits, batch).detach().double().cpu()
        return torch.tensor(
            [loss, float(batch.attention_mask_BT[:, 1:].sum()), batch.num_bytes], dtype=torch.float64
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


def build_task(spec: ModelSpec) -> Task:
    return Classification(len(spec.labels)) if spec.task == "classification" else LanguageModelling()
