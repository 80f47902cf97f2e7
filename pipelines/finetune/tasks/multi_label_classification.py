"""Multi-label classification: any number of classes per document, none included. Every class is a question of
its own: binary cross-entropy of its logit. Shapes: B sequences, T tokens, C classes.

A target is a pair of a document and a class, so the loss is the mean over documents x classes, whatever the
ranks and micro-batches. A class belongs to the set of a document from a probability of label_threshold, the
same for all classes and kept with the model: one threshold per class would be fitted to the few documents
that a rare class has in validation, the data that choose the checkpoint.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from pipelines.dataset.examples.example import Document
from pipelines.dataset.rows import LABEL_SET, Rows
from pipelines.finetune.models.architecture import ModelSpec
from pipelines.finetune.models.classifier import EncoderClassifier
from pipelines.finetune.models.padding import send
from pipelines.finetune.tasks.classification import collate_documents, compute_logits
from pipelines.finetune.tasks.task import Batch, Draw, Prediction
from pipelines.label_sets import write_label_set
from pipelines.metrics import METRICS

METRIC_NAMES = ("loss", "micro_f1", "macro_f1", "exact_match")


class _Counts(NamedTuple):
    """The parts of the sums: the loss, documents, documents whose set is right, and of each class how often
    it was label and prediction, label, prediction."""

    nats: Tensor
    num_rows: Tensor
    num_exact: Tensor
    matches_C: Tensor
    labels_C: Tensor
    predictions_C: Tensor


class MultiLabelClassification:
    """An encoder with a linear head over the mean of its hidden states, one logit per class."""

    name, metric, auto_class = "multi_label_classification", "micro_f1", "AutoModel"
    compares_rows = False

    def __init__(self, spec: ModelSpec) -> None:
        if spec.label_threshold is None:
            raise ValueError(
                "multi_label_classification needs label_threshold of a model; set finetune.label_threshold "
                "and train again"
            )
        self._labels, self._max_tokens, self._threshold = spec.labels, spec.max_tokens, spec.label_threshold

    def build_module(self, backbone: Any) -> nn.Module:
        return EncoderClassifier(backbone, len(self._labels))

    def count_targets(self, num_targets: np.ndarray) -> np.ndarray:
        """The table counts one target for a set; the loss has one for each class."""
        return num_targets * len(self._labels)

    def collate(self, rows: Rows, device: torch.device, draw: Draw | None = None) -> Batch:
        """Targets (B, C) bool. Raises ValueError for a row of several documents, or without a set."""
        inputs = collate_documents(rows, device)
        if rows.label_sets is None or (rows.labels != LABEL_SET).any():
            raise ValueError(
                "a row of this batch has no set of classes; run the dataset stage with "
                f"dataset.task={self.name}"
            )
        is_label_BC = np.zeros((len(rows.labels), len(self._labels)), dtype=np.bool_)
        for row, classes in enumerate(rows.label_sets):
            is_label_BC[row, classes] = True
        return Batch(inputs, send(is_label_BC, device), int(rows.num_bytes.sum()))

    def loss_sum(self, outputs: Tensor, batch: Batch) -> Tensor:
        # A sum over thousands of classes has no place in 16 bits.
        logits_BC = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        return binary_cross_entropy_with_logits(logits_BC, batch.targets.to(logits_BC.dtype), reduction="sum")

    def row_losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        logits_BC = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        is_label_BC = batch.targets.to(logits_BC.dtype)
        return binary_cross_entropy_with_logits(logits_BC, is_label_BC, reduction="none").sum(1)

    def sums(self, outputs: Tensor, batch: Batch, total: Tensor | None = None) -> Tensor:
        """K = 3 + 3 C, as _Counts."""
        is_label_BC = batch.targets
        is_predicted_BC = outputs.float().sigmoid() >= self._threshold
        counts = _Counts(
            nats=self.loss_sum(outputs, batch).detach(),
            num_rows=torch.tensor(len(is_label_BC), device=outputs.device),
            num_exact=(is_predicted_BC == is_label_BC).all(1).sum(),
            matches_C=(is_predicted_BC & is_label_BC).sum(0),
            labels_C=is_label_BC.sum(0),
            predictions_C=is_predicted_BC.sum(0),
        )
        sums = torch.cat([count.double().reshape(-1) for count in counts])
        return sums if total is None else total.add_(sums)

    def metrics(self, sums: Tensor) -> dict[str, float]:
        """macro_f1 is over the classes that occur as a label.

        Raises ValueError if no document has a label: there is nothing to be found.
        """
        num_classes = len(self._labels)
        counts = _Counts(*(part.cpu() for part in sums.split([1, 1, 1, *[num_classes] * 3])))
        num_rows = float(counts.num_rows)
        known = {
            "nats": float(counts.nats),
            "num_targets": num_rows * num_classes,
            "num_exact": float(counts.num_exact),
            "num_labelled": num_rows,
            "num_matches": float(counts.matches_C.sum()),
            "num_labels": float(counts.labels_C.sum()),
            "num_predictions": float(counts.predictions_C.sum()),
            "class_matches": counts.matches_C.tolist(),
            "class_labels": counts.labels_C.tolist(),
            "class_predictions": counts.predictions_C.tolist(),
        }
        return {name: METRICS[name].compute(known) for name in METRIC_NAMES}

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
        """The classes from the threshold on, as a set and with their probabilities; ties in the order of the
        names. The score is that of the least certain class: its probability, or that it does not belong to
        the set.

        Texts are cut at max_tokens, as in training.
        """
        predictions = [Prediction("", 0.0)] * len(documents)
        batches = compute_logits(model, tokenizer, documents, max_tokens=self._max_tokens, size=batch_size)
        for rows, logits_BC in batches:
            probabilities_BC = logits_BC.sigmoid()
            is_predicted_BC = probabilities_BC >= self._threshold
            scores_B = probabilities_BC.where(is_predicted_BC, 1 - probabilities_BC).amin(1)
            for place, row in enumerate(rows):
                numbers = is_predicted_BC[place].nonzero()[:, 0]
                found = [
                    (self._labels[number], probability)
                    for number, probability in zip(
                        numbers.tolist(), probabilities_BC[place, numbers].tolist(), strict=True
                    )
                ]
                predictions[row] = Prediction(
                    write_label_set(name for name, _ in found),
                    float(scores_B[place]),
                    len(documents[row].text.encode()),
                    labels=sorted(found, key=lambda each: -each[1]),
                )
        return predictions
