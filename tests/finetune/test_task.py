import math

import numpy as np
import pytest
import torch

from pipelines.dataset.reader import Rows
from pipelines.finetune.tasks.task import Classification, LanguageModelling, collate

CPU = torch.device("cpu")


def rows(*tokens, targets=None, num_bytes=None):
    return Rows(
        [np.asarray(each, np.int32) for each in tokens],
        np.asarray(targets or [-100] * len(tokens)),
        np.ones(len(tokens), np.int64),
        np.asarray(num_bytes or [1] * len(tokens)),
    )


def test_collate_pads_on_the_right_and_masks_the_padding():
    batch = collate(rows([1, 2, 3], [4], targets=[1, 0], num_bytes=[5, 6]), CPU)
    assert batch.input_ids_BT.tolist() == [[1, 2, 3], [4, 0, 0]]
    assert batch.attention_mask_BT.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert (batch.targets_B.tolist(), batch.num_bytes) == ([1, 0], 11)


def test_classification_metrics_by_hand():
    task = Classification(3)
    batch = collate(rows([1], [1], [1], [1], targets=[0, 0, 1, 1]), CPU)
    logits = torch.log(torch.tensor([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.3, 0.6, 0.1]]))
    sums = task.sums(logits, batch)
    metrics = task.metrics(sums + sums)  # sums add over batches
    assert metrics["accuracy"] == 0.75
    assert metrics["loss"] == pytest.approx(
        -(math.log(0.7) + math.log(0.2) + math.log(0.8) + math.log(0.6)) / 4
    )
    # F1: class 0 2*1/(1+2), class 1 2*2/(3+2), class 2 does not occur.
    assert metrics["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert task.confusion(sums).tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
    assert float(task.loss_sum(logits, batch)) == pytest.approx(4 * metrics["loss"])


def test_language_modelling_counts_each_next_token_once_and_no_padding():
    task = LanguageModelling()
    batch = collate(rows([0, 1, 2], [3, 0], num_bytes=[7, 1]), CPU)
    logits = torch.zeros(2, 3, 4)  # uniform over 4 tokens: 2 bits a target, 3 targets
    metrics = task.metrics(task.sums(logits, batch))
    assert metrics["bits_per_byte"] == pytest.approx(3 * 2 / 8)
    assert metrics["perplexity"] == pytest.approx(4)
    assert float(task.loss_sum(logits, batch)) == pytest.approx(3 * math.log(4))


def test_language_modelling_predicts_the_token_after():
    task, batch = LanguageModelling(), collate(rows([0, 1, 2]), CPU)
    logits = torch.full((1, 3, 4), -50.0)
    logits[0, 0, 1] = logits[0, 1, 2] = 50.0
    assert float(task.loss_sum(logits, batch)) == pytest.approx(0, abs=1e-6)
