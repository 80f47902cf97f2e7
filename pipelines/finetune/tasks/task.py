"""The members that a task has. A task is one file here, one in `dataset/examples`, and one line in
`table.TASKS`.

Shapes: B sequences, T tokens, C classes, V vocabulary, K sums.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from pipelines.dataset.examples.example import Document
from pipelines.dataset.rows import Rows

COMPARED_ROWS = 256
"""Most rows that an evaluation of a task with `compares_rows` compares with each other."""


class Batch(NamedTuple):
    """Rows as tensors on the device of the model."""

    inputs: dict[str, Tensor]
    """Keyword arguments of the model's forward: input_ids_BT int32 and attention_mask_BT bool;
    position_ids_BT and segment_ids_BT int32 only if some row holds several documents; for a decoder the
    targets, too: target_ids_BT int32 for a model that answers with log-probabilities (models/preference.py).
    """
    targets: Tensor
    """(B,) class numbers, (B, C) bool, true at the classes of a row, or (B, T) token ids with -100 where the
    loss does not count. Of a task that compares rows, one row for each row of the outputs."""
    num_bytes: float
    """UTF-8 bytes behind the targets. A task that draws its targets counts each as the mean of its row."""
    num_sequences: int | None = None
    """Rows of the table, if each gives several rows of input_ids_BT; None = each gives one."""


class Draw(NamedTuple):
    """What the random choices of a task depend on: the same for any number of ranks and micro-batches."""

    rows: np.ndarray
    """(num_rows,) int64: their numbers in the split."""
    seed: int
    step: int | None
    """From 0; null = an evaluation or a score, where settings of the training do not count either."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says about one document."""

    prediction: str
    """Class name, a set of them (pipelines/label_sets.py), or the continuation or answer that a language
    model writes; empty for a masked one."""
    score: float
    """Probability of the class, or of the least certain choice of a set; or bits per byte of what was
    predicted; of a pair of responses, nats a token by which the chosen one is likelier than the rejected one;
    of retrieval, the cosine of a pair."""
    num_bytes: int = 0
    """UTF-8 bytes that the score is about: of the text, but for a first token that nothing predicts; of a
    conversation those of the assistant's turns, of a pair those of both responses."""
    problem: str | None = None
    """Why the document could not be read, with the remedy: then the prediction is empty. None = it was."""
    embedding: list[float] | None = None
    """Vector of the document, of length 1. None = the task makes none."""
    labels: list[tuple[str, float]] | None = None
    """Classes of the set and their probabilities, likeliest first. None = the task predicts no sets."""
    reciprocal_rank: float | None = None
    """Of the positive among candidates. None = the document is no pair of query and positive."""


class Task(Protocol):
    """Rows to tensors, outputs to loss, sums to metrics, texts to predictions.

    Losses are sums over targets: the loop divides by the targets of the whole global batch, so the gradient
    does not depend on how rows are split over ranks and micro-batches.
    """

    name: str
    metric: str
    """Key of `pipelines.metrics.METRICS`: it chooses the best checkpoint and decides at the gate."""
    auto_class: str
    """transformers Auto class of the backbone, such as AutoModel."""
    compares_rows: bool
    """Whether the loss of a row depends on other rows. Then `loss_sum` and `sums` get the outputs and targets
    of all rows that are compared: of a whole global batch in training (parallel/whole_batch.py), of a block
    of at most COMPARED_ROWS in an evaluation."""

    def build_module(self, backbone: Any) -> nn.Module:
        """The backbone (a transformers PreTrainedModel) with the head of the task; called as
        model(**batch.inputs).
        """
        ...

    def count_targets(self, num_targets: np.ndarray) -> np.ndarray:
        """(num_rows,) terms of the loss of rows that have `num_targets` in the table."""
        ...

    def collate(self, rows: Rows, device: torch.device, draw: Draw | None = None) -> Batch:
        """Rows as tensors. `draw` is for tasks with random choices; without them it may be null."""
        ...

    def loss_sum(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Sum of the loss over the targets, in nats; a scalar with a gradient. Language models may output the
        losses (N,) of their targets instead of logits."""
        ...

    def sums(self, outputs: Tensor, batch: Batch, total: Tensor | None = None) -> Tensor:
        """(K,) float64 on the device of `outputs`: numbers that can be added over batches and ranks.

        With `total`, the sums of earlier batches, they are added to it in place, and it is returned.
        """
        ...

    def metrics(self, sums: Tensor) -> dict[str, float]:
        """Metrics by name from added `sums`, `metric` among them."""
        ...

    def confusion(self, sums: Tensor) -> np.ndarray | None:
        """(C, C) int64 counts, row = expected, column = predicted; None where there are no classes."""
        ...

    def sample_text(self, model: nn.Module, tokenizer: Tokenizer, rows: Rows) -> str | None:
        """Some of what the model writes, for a person to read; None = the task writes no text."""
        ...

    def predict(
        self,
        model: nn.Module,
        tokenizer: Tokenizer,
        documents: Sequence[Document],
        *,
        batch_size: int,
        generate: bool,
    ) -> list[Prediction]:
        """One prediction per document, in the order given. `generate=False` leaves out text that takes time
        to write.
        """
        ...


@runtime_checkable
class LossPerRow(Protocol):
    """What a task has, too, if the loss of a row does not depend on other rows (losses/tasks.py names them).
    A row is a sequence of the table; of preference, a pair."""

    def row_losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """(num_rows,) sum of the loss over the targets of each row, in nats, in the order of the rows; they
        add up to `loss_sum`. Without a gradient."""
        ...
