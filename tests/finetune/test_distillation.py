"""Distillation: the loss by hand, what a model with a teacher gives, teachers that do not fit, trainings."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from jobs.finetune import Config
from jobs.shell.settings import load
from pipelines.finetune.models.architecture import Architecture
from pipelines.finetune.models.build import CPU_ATTENTION, GPU_ATTENTION, build_model
from pipelines.finetune.models.folder import load_model, save_model
from pipelines.finetune.models.teacher import attach_teacher, digest_teacher, load_teacher
from pipelines.finetune.plan import make_training
from pipelines.finetune.results import read_result
from pipelines.finetune.tasks.distillation import Distillation, choose_task
from pipelines.finetune.tasks.table import build_task
from pipelines.finetune.teacher import Teacher, require_teachable
from pipelines.finetune.worker import train_rank
from pipelines.pin import Pin
from tests.finetune import data
from tests.finetune.ranks import alone
from tests.finetune.test_task import CPU, make_rows, make_spec

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT = {"model_type": "bert", **SIZES, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
LLAMA = {"model_type": "llama", **SIZES, "num_key_value_heads": 2, "max_position_embeddings": 64}
GPT2 = {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
GPT2 |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
CONFIGS = {"classification": BERT, "language_modelling": LLAMA}
ROWS = make_rows([5, 6, 7], [8, 9])


def spec_of(task):
    return make_spec(task, tuple("abcd") if task == "classification" else (), max_tokens=data.MAX_TOKENS)


def build(task, seed, vocab_size=data.VOCABULARY, **config):
    own = {} if "model_type" in config else CONFIGS[task]
    architecture = Architecture(config={**own, **config})
    return build_model(architecture, spec_of(task), vocab_size=vocab_size, seed=seed)


def write_teacher(folder, task="classification", seed=7, tokenizer=None, config=None, **spec):
    """A model folder of a wider model than the student."""
    module = build(task, seed, **(config or {"hidden_size": 32}))
    content = (tokenizer or data.make_tokenizer()).to_str()
    save_model(module, content, replace(spec_of(task), **spec), folder)
    return str(folder)


def test_the_loss_of_a_class_by_hand():
    teacher = Teacher(base="t", weight=0.25, temperature=2.0)
    task = Distillation(build_task(make_spec("classification", ("a", "b"))), teacher)
    batch = task.collate(make_rows([1], [2], labels=[0, 1]), CPU)
    # Logits 2 log p: at temperature 2 the probabilities are p.
    student = 2 * torch.tensor([[0.5, 0.5], [0.2, 0.8]]).log()
    theirs = 2 * torch.tensor([[0.9, 0.1], [0.2, 0.8]]).log()
    difference = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)  # teacher || student; the second is 0
    own = math.log(2) + math.log(1 + (0.2 / 0.8) ** 2)
    expected = 0.75 * own + 0.25 * 4 * difference
    assert float(task.loss_sum(torch.stack([student, theirs]), batch)) == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"needs the logits of student and teacher, got shape \[2, 2\]"):
        task.loss_sum(student, batch)


@pytest.mark.parametrize("task", CONFIGS)
def test_a_teacher_that_agrees_adds_nothing(task):
    """All of the loss that is left is the task's, over the targets alone: padding does not count."""
    student, teacher = build(task, seed=1), build(task, seed=1)
    plain = build_task(spec_of(task))
    rows = make_rows([5, 6, 7], [8, 9], labels=[0, 1]) if task == "classification" else ROWS
    batch = plain.collate(rows, CPU)
    expected = plain.loss_sum(student.eval()(**batch.inputs), batch)
    attach_teacher(student, teacher.eval(), data.VOCABULARY)
    found = Distillation(plain, Teacher(base="t", weight=0.25)).loss_sum(
        student.train()(**batch.inputs), batch
    )
    assert float(found.detach()) == pytest.approx(0.75 * float(expected.detach()), rel=1e-5)
    student.eval()
    assert torch.equal(plain.loss_sum(student(**batch.inputs), batch), expected)  # evaluations see no teacher


def test_logits_of_targets_are_compared_whatever_the_padding_of_the_vocabulary():
    student, teacher = build("language_modelling", 1), build("language_modelling", 2, vocab_size=80)
    inputs = build_task(spec_of("language_modelling")).collate(ROWS, CPU).inputs
    attach_teacher(student, teacher.eval(), data.VOCABULARY)
    pair = student.train()(**inputs)
    assert pair.shape == (2, 3, data.VOCABULARY)  # 2 targets of the first row, 1 of the second
    with torch.no_grad():
        alone_NV = teacher(torch.tensor([[8]]), torch.ones(1, 1, dtype=torch.bool))[0, :, : data.VOCABULARY]
    torch.testing.assert_close(pair[1, 2:], alone_NV, atol=1e-5, rtol=0)
    assert (pair[0].requires_grad, teacher.decoder.lm_head.weight.grad) == (True, None)


@pytest.mark.parametrize("task", CONFIGS)
def test_a_teacher_is_frozen_and_no_part_of_the_model(tmp_path, task):
    folder = write_teacher(tmp_path / "teacher", task)
    student = build(task, seed=1)
    names, digest = set(student.state_dict()), digest_teacher(student)
    teacher = load_teacher(folder, folder, spec_of(task), data.make_tokenizer())
    assert not any(each.requires_grad or each.grad for each in teacher.parameters())
    attach_teacher(student, teacher, data.VOCABULARY)
    assert set(student.state_dict()) == names
    assert len(list(student.modules())) == len(list(build(task, seed=1).modules()))
    assert digest is None
    assert len(digest_teacher(student)) == 64
    student.double().train()
    inputs = choose_task(spec_of(task), None).collate(make_rows([5, 6], labels=[0]), CPU).inputs
    assert student(**inputs).dtype == torch.float64 == next(teacher.parameters()).dtype
    assert not teacher.training


@pytest.mark.parametrize("has_gpu", [True, False])
def test_a_teacher_takes_the_attention_of_its_device(tmp_path, monkeypatch, has_gpu):
    folder = write_teacher(tmp_path / "teacher", "language_modelling")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    teacher = load_teacher(folder, folder, spec_of("language_modelling"), data.make_tokenizer())
    assert teacher.config._attn_implementation == (GPU_ATTENTION if has_gpu else CPU_ATTENTION)


def test_a_teacher_that_does_not_fit_is_refused(tmp_path):
    spec, tokenizer = spec_of("classification"), data.make_tokenizer()
    other = write_teacher(tmp_path / "other", labels=("a", "b", "c", "x"))
    with pytest.raises(
        ValueError, match=rf"{other} knows 4 classes .* 4; only the teacher has \['x'\], only the"
    ):
        load_teacher(other, other, spec, tokenizer)
    writer = write_teacher(tmp_path / "writer", "language_modelling")
    with pytest.raises(
        ValueError, match=r"is a model of task language_modelling, but .* of task classification"
    ):
        load_teacher(writer, writer, spec, tokenizer)
    changed = json.loads(tokenizer.to_str())
    changed["model"]["vocab"].update({"w3": 4, "w4": 3})
    swapped = write_teacher(tmp_path / "swapped", tokenizer=type(tokenizer).from_str(json.dumps(changed)))
    message = rf"tokenizer of {swapped} has 64 tokens .* 64, and token 'w3' has number 4 there and 3 here"
    with pytest.raises(ValueError, match=message):
        load_teacher(swapped, swapped, spec, tokenizer)
    short = write_teacher(tmp_path / "short")
    with pytest.raises(ValueError, match="sequence_length is 4096 tokens, but the model"):
        load_teacher(short, short, replace(spec, max_tokens=4096), tokenizer)
    build("classification", 1).encoder.save_pretrained(tmp_path / "plain")
    with pytest.raises(
        ValueError, match=r"plain is no model folder of Distributary, and only its model_spec"
    ):
        load_teacher(str(tmp_path / "plain"), str(tmp_path / "plain"), spec, tokenizer)


def test_any_decoder_with_the_same_vocabulary_can_teach_a_decoder(tmp_path):
    decoder = build("language_modelling", 3)
    decoder.decoder.save_pretrained(tmp_path)
    data.make_tokenizer().save(str(tmp_path / "tokenizer.json"))
    teacher = load_teacher(str(tmp_path), "t", spec_of("chat"), data.make_tokenizer())
    expected = decoder.decoder.model.layers[1].mlp.up_proj.weight
    assert torch.equal(teacher.decoder.model.layers[1].mlp.up_proj.weight, expected)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weight": 0.0}, "weight must be greater than 0 and at most 1, got 0.0"),
        ({"weight": 1.1}, "weight must be greater than 0 and at most 1, got 1.1"),
        ({"temperature": 0.0}, "temperature must be greater than 0 and finite, got 0.0"),
        ({"temperature": math.inf}, "temperature must be greater than 0 and finite, got inf"),
    ],
)
def test_settings_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Teacher(**fields)


def test_tasks_and_settings_without_comparable_logits_are_refused():
    require_teachable("chat", None)
    with pytest.raises(ValueError, match=r"of task retrieval; set finetune.teacher.base to null"):
        require_teachable("retrieval", None)
    with pytest.raises(ValueError, match="max_logit_tokens leaves no logits"):
        require_teachable("chat", 64)


def test_a_training_learns_from_its_teacher_alone(root):
    """With weight 1 the labels of the rows do not count: the student agrees with a teacher that is wrong."""
    teacher = write_teacher(root / "teacher")
    module = load_model(root / "teacher").module
    module.head.weight.data *= 20  # a teacher with opinions
    save_model(module, data.make_tokenizer().to_str(), spec_of("classification"), root / "teacher")
    training = data.make_training(root, teacher=Teacher(base=teacher, weight=1.0), num_epochs=20.0)
    result = train_rank(training, alone())
    rows = data.classification_rows(40, 1)
    inputs = build_task(spec_of("classification")).collate(rows, CPU).inputs
    student = load_model(root / "run" / "model").module
    with torch.no_grad():
        answers = [each.eval()(**inputs).argmax(-1) for each in (student, module.eval())]
    assert (answers[0] == answers[1]).float().mean() > 0.8
    assert len(answers[1].unique()) > 1
    assert result == read_result(training.folder)
    assert result["metric"] == "accuracy"


def test_another_teacher_is_noticed_when_a_training_continues(root):
    training = data.make_training(root, teacher=Teacher(base=write_teacher(root / "teacher")))
    train_rank(training, alone())
    assert (root / "run" / "reference.json").is_file()
    (root / "run" / "result.json").unlink()
    write_teacher(root / "teacher", seed=8)
    with pytest.raises(ValueError, match=r"1 of 1 ranks have another one .* finetune.teacher.base differ"):
        train_rank(training, alone())


def test_only_a_training_with_a_teacher_depends_on_it(root):
    plain = data.make_training(root)
    taught = [replace(plain, teacher=Teacher(base="t", weight=weight)) for weight in (0.5, 0.6)]
    assert len({json.dumps(each.identity(), default=str) for each in (plain, *taught)}) == 3
    assert "teacher" not in plain.identity()
    assert "teacher" not in plain.settings()
    assert taught[0].settings()["teacher"] == {"base": "t", "weight": 0.5, "temperature": 2.0}


@pytest.mark.parametrize("seed", [1])
def test_the_divergence_is_never_negative(seed):
    random = torch.Generator().manual_seed(seed)
    task = Distillation(build_task(spec_of("classification")), Teacher(base="t", weight=1.0))
    batch = task.collate(make_rows(*[[1]] * 50, labels=[0] * 50), CPU)
    for _ in range(5):
        pair = torch.randn(2, 50, 4, generator=random, dtype=torch.float64)
        assert float(task.loss_sum(pair, batch)) > 0
    assert float(task.loss_sum(pair[:1].repeat(2, 1, 1), batch)) == pytest.approx(0, abs=1e-12)
    assert np.isfinite(float(task.loss_sum(1e3 * pair, batch)))


def test_the_files_of_a_teacher_are_in_the_fingerprint(tmp_path):
    facts = {"task": "classification", "labels": list("abcd"), "sequence_length": 32, "tokenizer": "t"}
    table = {"table": "sequences", "path": "/no/table", "table_id": "i", "version": 1, "digest": "d"}
    sequences = Pin(**table, num_rows=9, fingerprint="f", facts=facts)

    def plan(*changes):
        model = "finetune.model.config={model_type: bert}"
        return make_training(load(overrides=[model, *changes]).section("finetune", Config), sequences)

    folder = write_teacher(tmp_path / "teacher")
    taught, plain = plan(f"finetune.teacher.base={folder}"), plan()
    assert (taught.teacher, plain.teacher) == (Teacher(base=folder), None)
    assert plan("finetune.teacher.weight=0.9").fingerprint == plain.fingerprint != taught.fingerprint
    write_teacher(tmp_path / "teacher", seed=8)
    assert plan(f"finetune.teacher.base={folder}").fingerprint not in (taught.fingerprint, plain.fingerprint)
    facts["task"] = "retrieval"
    with pytest.raises(ValueError, match=r"finetune.teacher is for tasks .* of task retrieval"):
        plan(f"finetune.teacher.base={folder}")
