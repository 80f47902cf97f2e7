"""The loss of a row alone: of which tasks there is one, and that it is a part of the loss of the batch."""

import pytest
import torch

from pipelines.finetune.losses.tasks import TASKS as TASKS_WITH_LOSSES
from pipelines.finetune.losses.tasks import require_task
from pipelines.finetune.models.architecture import Architecture
from pipelines.finetune.models.build import build_model
from pipelines.finetune.models.decoder import limit_logits
from pipelines.finetune.preference import PreferenceLoss
from pipelines.finetune.tasks.table import TASKS, build_task
from pipelines.finetune.tasks.task import Draw, LossPerRow
from tests.finetune import data, preferences
from tests.finetune.test_masked_ranks import packed_rows
from tests.finetune.test_train import DECODER

ROWS = {
    "classification": data.classification_rows,
    "multi_label_classification": data.label_set_rows,
    "preference": preferences.pair_rows,
}
ENCODERS = ("classification", "masked_language_modelling", "multi_label_classification")


def build_example(task, root):
    """(task, module in float64, rows, whose losses are asked for)."""
    decoder = Architecture(config=preferences.LLAMA if task == "preference" else DECODER)
    changes = {} if task in ENCODERS else {"architecture": decoder}
    changes |= {"preference": PreferenceLoss(loss="orpo")} if task == "preference" else {}
    training = data.make_training(root, task=task, **changes)
    module = build_model(training.architecture, training.spec, vocab_size=data.VOCABULARY, seed=0)
    return build_task(training.spec), module.double().eval(), ROWS.get(task, packed_rows)(6, 3)


@pytest.mark.parametrize(("task", "limit"), [*((task, None) for task in TASKS_WITH_LOSSES), ("chat", 7)])
def test_the_loss_of_a_row_is_that_of_the_row_alone(tmp_path, task, limit):
    built, module, rows = build_example(task, tmp_path)
    if limit:
        limit_logits(module, limit)

    def measure(chosen):
        part = type(rows)(*(None if values is None else values[chosen] for values in rows))
        batch = built.collate(part, torch.device("cpu"), Draw(torch.arange(6).numpy()[chosen], 0, 1))
        outputs = module(**batch.inputs).detach()
        return built.row_losses(outputs, batch), built.loss_sum(outputs, batch)

    together, total = measure(slice(0, 6))
    apart = [measure(slice(row, row + 1))[1] for row in range(6)]
    assert together.tolist() == pytest.approx([float(each) for each in apart], rel=1e-12)
    assert float(together.sum()) == pytest.approx(float(total), rel=1e-12)
    assert len(set(together.tolist())) == 6


def test_tasks_whose_sequences_have_no_loss_of_their_own_are_refused_by_name(tmp_path):
    specs = {name: data.make_training(tmp_path, task=name).spec for name in TASKS}
    found = {name for name, spec in specs.items() if isinstance(build_task(spec), LossPerRow)}
    assert found == set(TASKS_WITH_LOSSES)
    assert "retrieval" not in found
    with pytest.raises(
        ValueError, match=r"sequence_losses is true, but in task retrieval .* set it to false"
    ):
        require_task("retrieval", has_teacher=False)
    with pytest.raises(ValueError, match=r"finetune\.teacher\.base is set"):
        require_task("classification", has_teacher=True)
