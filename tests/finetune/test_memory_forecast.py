"""What a person reads of the memory of a rank, and the process that is asked for it."""

import sys
from dataclasses import replace

import pytest
import torch

from pipelines.finetune.memory import child, forecast, question
from pipelines.finetune.memory.question import Answer, MemoryEstimate
from pipelines.finetune.models.adapter import Adapter
from pipelines.finetune.models.architecture import Architecture
from pipelines.finetune.parallel import table
from pipelines.finetune.training import Fold
from tests.finetune import preferences
from tests.finetune.data import make_training
from tests.sequence_tables import make_rows, write_sequences_table

GB = 10**9
ESTIMATE = MemoryEstimate(
    weights=GB,
    gradients=GB,
    optimizer=2 * GB,
    activations=6 * GB,
    resident=13 * GB,
    num_rows=32,
    num_tokens=512,
)
ON_CPU = Answer(estimate=ESTIMATE, on_gpu=False, gpu_bytes=None)
ON_GPU = Answer(estimate=ESTIMATE, on_gpu=True, gpu_bytes=8 * GB)


def test_a_person_reads_the_parts():
    text = forecast.describe_memory(ON_CPU, num_neighbours=1)
    assert text.startswith("at least 13.88 GB a rank at its peak: weights 1.00, gradients 1.00, optim")
    assert "activations 6.00 (micro-batch of 32 sequences, up to 512 tokens)" in text
    assert text.endswith("copy of a checkpoint 0.00, export and gaps of the allocator 3.00, process 0.89")
    copied = replace(ON_CPU, estimate=replace(ESTIMATE, checkpoint=2 * GB))
    text = forecast.describe_memory(copied, num_neighbours=1)
    assert "copy of a checkpoint 2.00, export and gaps of the allocator 1.00" in text
    assert forecast.describe_memory(ON_GPU, num_neighbours=1).startswith(
        "10.00 GB a rank at its peak on its GPU"
    )
    evaluated = replace(ON_CPU, estimate=replace(ESTIMATE, in_evaluation=True))
    assert "(evaluation of 32 sequences" in forecast.describe_memory(evaluated, num_neighbours=1)


def test_ranks_of_one_machine_share_the_code_of_the_libraries():
    # 13 GB and 0.505 of its own, and a part of 0.38.
    assert forecast.count_needed(ON_CPU, num_neighbours=1) == 13_885_000_000
    assert forecast.count_needed(ON_CPU, num_neighbours=4) == 13_600_000_000
    assert forecast.describe_memory(ON_CPU, num_neighbours=4).endswith("process 0.60")
    assert forecast.count_needed(ON_GPU, num_neighbours=4) == 10 * GB


def test_too_little_memory_names_the_settings_that_help(root):
    training = make_training(root)

    def warn(found, room):
        answer = replace(ON_CPU, estimate=found)
        return forecast.warn_of_memory(answer, training, num_ranks=2, room=room)

    assert warn(ESTIMATE, 13_695_000_000) == {}
    assert warn(ESTIMATE, 13 * GB) == {
        "memory warning": "a rank needs at least 13.70 GB, and this machine has 13.00 for each of 2 "
        "ranks; set finetune.micro_batch=16 or finetune.activation_checkpointing=true"
    }
    evaluated = warn(replace(ESTIMATE, in_evaluation=True), 13 * GB)["memory warning"]
    assert evaluated.endswith("; set finetune.micro_batch=16")  # an evaluation keeps no activations
    copied = replace(ESTIMATE, checkpoint=9 * GB)
    assert "set finetune.checkpoint_in_background=false or" in warn(copied, GB)["memory warning"]
    mostly_state = replace(ESTIMATE, optimizer=9 * GB, activations=10**8)
    assert "set finetune.strategy=sharded_optimizer or" in warn(mostly_state, GB)["memory warning"]


def test_where_no_setting_helps_none_is_named(root):
    small = make_training(
        root,
        micro_batch=1,
        activation_checkpointing=True,
        optimizer="adafactor",
        architecture=Architecture(config={}, adapter=Adapter(kind="lora")),
    )
    answer = replace(ON_GPU, estimate=replace(ESTIMATE, num_rows=1))
    assert forecast.warn_of_memory(answer, small, num_ranks=1, room=8 * GB) == {
        "memory warning": "a rank needs at least 10.00 GB, and its GPU has 8.00; take a smaller model or a "
        "larger machine"
    }


@pytest.fixture
def training(root):
    """Of a table that is there, with a small decoder."""
    splits = {name: make_rows(name, number, num_groups=5) for name, number in (("train", 40), ("test", 9))}
    pin = write_sequences_table(str(root / "sequences"), splits)
    return make_training(
        root,
        task="language_modelling",
        architecture=Architecture(config={**preferences.LLAMA, "max_position_embeddings": 512}),
        sequences=pin.path,
        table_id=pin.table_id,
        version=pin.version,
        evaluation_split="test",
    )


def look(training, *, num_ranks=2, is_local=True, gives_gpus=False):
    return forecast.forecast_memory(training, num_ranks=num_ranks, is_local=is_local, gives_gpus=gives_gpus)


def test_a_process_of_its_own_answers(training, monkeypatch):
    most = max(row["num_tokens"] for row in make_rows("train", 40, num_groups=5))
    monkeypatch.setattr(forecast, "read_memory_limit", lambda: 10**9)
    monkeypatch.setattr(child, "answer", None)  # not in this process
    found = look(training)
    assert f"(micro-batch of 8 sequences, up to {most} tokens)" in found["memory"]
    assert "and this machine has 0.50 for each of 2 ranks" in found["memory warning"]


def test_a_process_that_takes_too_long_or_dies_is_said(training, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(question, "MAX_SECONDS", 0.01)
        assert look(training) == {"memory": "not known (the estimate took more than 0.01 s)"}
    monkeypatch.setattr(question, "CHILD", "no_such_module")
    assert look(training)["memory"].startswith("not known (its process ended with status 1: ")
    assert look(training)["memory"].endswith("No module named no_such_module)")


@pytest.fixture
def asked(monkeypatch):
    """Questions, answered in this process as the child does it."""
    questions = []

    def ask(asker, each):
        questions.append(each)
        return question._read(child.answer(each))

    monkeypatch.setattr(question.Asker, "ask", ask)
    return questions


def test_what_cannot_be_estimated_is_said(root, training, asked, monkeypatch):
    found = look(make_training(root))
    assert found["memory"].startswith("not known (FileNotFoundError: sequences at /no/table")
    unknown = replace(training, architecture=Architecture(config={"model_type": "llama", "wrong": 1}))
    assert look(unknown)["memory"].startswith("not known (ValueError: model type llama has no setting wrong")
    monkeypatch.setitem(sys.modules, "pipelines.finetune.memory.estimate", None)
    assert look(training)["memory"].endswith("; install torch where this command runs")


def test_ranks_on_gpus_are_forecast_where_there_are_none(training, asked):
    asks_for_gpus = replace(training, execution=replace(training.execution, gpus_per_rank=1.0))
    for is_local in (True, False):
        found = look(asks_for_gpus, is_local=is_local, gives_gpus=True)
        assert list(found) == ["memory"]
        assert "GB a rank at its peak on its GPU" in found["memory"]


@pytest.mark.parametrize(
    ("num_gpus", "nccl", "num_ranks", "expected"),
    [
        (2, True, 2, "cuda"),
        (2, False, 2, "cpu"),
        (1, True, 2, "cpu"),
        (1, False, 1, "cuda"),
        (0, True, 1, "cpu"),
    ],
)
def test_the_device_is_that_of_the_ranks(training, asked, monkeypatch, num_gpus, nccl, num_ranks, expected):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    monkeypatch.setattr(table, "has_nccl", lambda backend: nccl)
    monkeypatch.setattr(question.Asker, "ask", lambda asker, each: asked.append(each) or ON_CPU)
    look(training, num_ranks=num_ranks)
    assert child._find_device(asked[0]) == expected
    assert child._find_device(replace(asked[0], is_local=False)) == "cpu"
    assert child._find_device(replace(asked[0], gives_gpus=True)) == "cuda"


def test_the_largest_evaluation_counts(training):
    rows = make_rows("test", 9, num_groups=5)

    def find(**changes):
        found, num_rows = forecast._find_evaluated(replace(training, **changes))
        return max(map(len, found.rows.input_ids)), num_rows

    assert find() == (max(row["num_tokens"] for row in rows), len(rows))
    limited = replace(training.cadence, max_evaluation_sequences=3)
    assert find(cadence=limited)[1] == 3
    fold = Fold(number=0, num_folds=4, seed=0, file="")
    num_train = len(make_rows("train", 40, num_groups=5))
    assert find(data=replace(training.data, fold=fold))[1] == -(-num_train // 4)
