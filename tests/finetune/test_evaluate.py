"""Which rows an evaluation measures, and that every one counts once."""

import numpy as np
import pytest
import torch
from torch import nn

from pipelines.dataset.reader import SequenceReader, write_split
from pipelines.finetune.average import WeightAverage
from pipelines.finetune.evaluate import choose_rows, evaluate
from pipelines.finetune.models.architecture import ModelSpec
from pipelines.finetune.optimization import Optimization
from pipelines.finetune.parallel.single import SingleProcess
from pipelines.finetune.tasks.classification import Classification
from pipelines.finetune.training import Cadence
from tests.finetune.data import NUM_LABELS, classification_rows


class FirstToken(nn.Module):
    """Takes the first token of a row, modulo the classes, for its class."""

    def forward(self, input_ids_BT, attention_mask_BT):
        return nn.functional.one_hot(input_ids_BT[:, 0].long() % NUM_LABELS, NUM_LABELS).float()


def replica(rank: int, num_replicas: int) -> SingleProcess:
    """A single process that takes the rows of one of several replicas; its sums are its own."""
    strategy = SingleProcess(torch.device("cpu"))
    strategy._model = FirstToken()
    strategy._average = WeightAverage({}, Optimization())
    strategy.data_rank, strategy.num_replicas = rank, num_replicas
    return strategy


@pytest.fixture
def rows():
    return classification_rows(50, seed=3)


@pytest.fixture
def reader(rows, tmp_path):
    write_split(tmp_path / "split", rows)
    return SequenceReader(tmp_path / "split")


TASK = Classification(
    ModelSpec(task="classification", labels=tuple("abcd"), max_tokens=32, base="", tokenizer="")
)


def count_by_hand(rows, chosen):
    counts = np.zeros((NUM_LABELS, NUM_LABELS), int)
    for row in chosen:
        counts[rows.labels[row], rows.input_ids[row][0] % NUM_LABELS] += 1
    return counts


@pytest.mark.parametrize("max_rows", [None, 50, 12])
@pytest.mark.parametrize("num_replicas", [1, 3])
def test_confusion_counts_every_chosen_row_once(rows, reader, max_rows, num_replicas):
    found = [
        evaluate(TASK, reader, replica(rank, num_replicas), batch_rows=4, max_rows=max_rows)
        for rank in range(num_replicas)
    ]
    chosen = choose_rows(50, max_rows)
    assert {each.num_rows for each in found} == {len(chosen)} == {max_rows or 50}
    assert np.array_equal(sum(each.confusion for each in found), count_by_hand(rows, chosen))


def test_limited_choice_is_fixed_and_spread():
    chosen = choose_rows(10_000, 1_000)
    assert np.array_equal(chosen, choose_rows(10_000, 1_000))
    assert len(set(chosen.tolist())) == 1_000
    # A fair choice: of each tenth about 100 rows; six standard deviations are 57.
    assert all(43 < count < 157 for count in np.histogram(chosen, bins=10, range=(0, 10_000))[0])


def test_limit_below_one_row_is_refused():
    with pytest.raises(ValueError, match="max_evaluation_sequences must be at least 1 or null, got 0"):
        Cadence(
            evaluate_every_steps=1, checkpoint_every_steps=1, log_every_steps=1, max_evaluation_sequences=0
        )
