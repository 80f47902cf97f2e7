"""Classification: one class per document, cross-entropy over classes. Shapes: B sequences, T tokens, C
classes.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipelines.dataset.examples.example import Document
from pipelines.dataset.rows import Rows
from pipelines.finetune.models.architecture import ModelSpec
from pipelines.finetune.models.classifier import EncoderClassifier
from pipelines.finetune.models.padding import pad, send
from pipelines.finetune.tasks.task import Batch, Draw, Prediction
from pipelines.finetune.tasks.texts import ForgedTokens, batch_by_length, encode_start
from pipelines.metrics import METRICS


class Classification:
    """An encoder with a linear head over the mean of its hidden states."""

    name, metric, auto_class = "classification", "accuracy", "AutoModel"
    compares_rows = False

    def __init__(self, spec: ModelSpec) -> None:
        self._labels, self._max_tokens = spec.labels, spec.max_tokens

    def build_module(self, backbone: Any) -> nn.Module:
        return EncoderClassifier(backbone, len(self._labels))

    def count_targets(self, num_targets: np.ndarray) -> np.ndarray:
        return num_targets

    def collate(self, rows: Rows, device: torch.device, draw: Draw | None = None) -> Batch:
        """Raises ValueError for a row of several documents: it would have no class of its own."""
        inputs = collate_documents(rows, device)
        return Batch(inputs, send(rows.labels.astype(np.int64), device), int(rows.num_bytes.sum()))

    def loss_sum(self, outputs: Tensor, batch: Batch) -> Tensor:
        return cross_entropy(outputs, batch.targets, reduction="sum")

    def row_losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        return cross_entropy(outputs, batch.targets, reduction="none")

    def sums(self, outputs: Tensor, batch: Batch, total: Tensor | None = None) -> Tensor:
        """K = 1 + C * C: the loss, then the confusion matrix row by row.

        O(B) per batch with `total`: only the cells that the batch hits are touched (2,000 classes: 32 MB).
        """
        num_classes = len(self._labels)
        if total is None:
            total = torch.zeros(1 + num_classes**2, dtype=torch.float64, device=outputs.device)
        total[0] += self.loss_sum(outputs, batch).detach().double()
        cells_B = 1 + batch.targets * num_classes + outputs.argmax(-1)
        return total.index_add_(0, cells_B, torch.ones_like(cells_B, dtype=torch.float64))

    def metrics(self, sums: Tensor) -> dict[str, float]:
        counts = self.confusion(sums)
        num_rows = int(counts.sum())
        known = {
            "nats": float(sums[0]),
            "num_targets": num_rows,
            "num_correct": int(counts.trace()),
            "num_labelled": num_rows,
            "class_matches": counts.diagonal().tolist(),
            "class_labels": counts.sum(1).tolist(),
            "class_predictions": counts.sum(0).tolist(),
        }
        return {name: METRICS[name].compute(known) for name in ("loss", "accuracy", "macro_f1")}

    def confusion(self, sums: Tensor) -> np.ndarray:
        num_classes = len(self._labels)
        return sums[1:].reshape(num_classes, num_classes).cpu().numpy().astype(np.int64)

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
        """The likeliest class and its probability; ties go to the smaller class number.

        Texts are cut at max_tokens, as in training.
        """
        predictions = [Prediction("", 0.0)] * len(documents)
        batches = compute_logits(model, tokenizer, documents, max_tokens=self._max_tokens, size=batch_size)
        for rows, logits_BC in batches:
            scores_B, classes_B = logits_BC.softmax(-1).max(-1)
            for row, score, number in zip(rows, scores_B.tolist(), classes_B.tolist(), strict=True):
                num_bytes = len(documents[row].text.encode())
                predictions[row] = Prediction(self._labels[number], score, num_bytes)
        return predictions


def collate_documents(rows: Rows, device: torch.device) -> dict[str, Tensor]:
    """The inputs of a classifier. Raises ValueError for a row of several documents."""
    packed = next((row for row, lengths in enumerate(rows.segment_lengths) if len(lengths) > 1), None)
    if packed is not None:
        raise ValueError(
            f"row {packed} of this batch holds {len(rows.segment_lengths[packed])} documents, but "
            "classification needs one per row; set dataset.packing.method=one_per_document"
        )
    ids_BT, mask_BT = pad(rows.input_ids, device)
    return {"input_ids_BT": ids_BT, "attention_mask_BT": mask_BT}


def compute_logits(
    model: nn.Module, tokenizer: Tokenizer, documents: Sequence[Document], *, max_tokens: int, size: int
) -> Iterator[tuple[list[int], Tensor]]:
    """(numbers of documents, their logits (B, C) in float32), at most `size` at once. Texts are cut at
    `max_tokens`; one without tokens is one padding token."""
    device = next(model.parameters()).device
    forged = ForgedTokens(tokenizer)
    windows = [encode_start(tokenizer, forged, each.text, max_tokens) or [0] for each in documents]
    for rows in batch_by_length(windows, size):
        ids_BT, mask_BT = pad([windows[row] for row in rows], device)
        yield rows, model(input_ids_BT=ids_BT, attention_mask_BT=mask_BT).float()
