"""Preferences: losses and metrics against formulas in plain Python, the reference, whole trainings."""

import math

import numpy as np
import pytest
import torch

from pipelines.dataset.rows import NO_LABEL
from pipelines.finetune.models.adapter import Adapter
from pipelines.finetune.models.architecture import Architecture
from pipelines.finetune.models.build import build_model
from pipelines.finetune.models.folder import save_model
from pipelines.finetune.models.preference import PreferenceDecoder
from pipelines.finetune.parallel.single import SingleProcess
from pipelines.finetune.preference import PreferenceLoss
from pipelines.finetune.tasks.table import build_task
from pipelines.finetune.worker import train_rank
from pipelines.storage import Folder
from tests.finetune.data import VOCABULARY, make_tokenizer, make_training
from tests.finetune.preferences import LLAMA, pair_rows, write_pairs
from tests.finetune.ranks import alone
from tests.finetune.test_task import CPU, make_spec
from tests.finetune.test_train import read_losses

DPO, SMOOTH = PreferenceLoss(beta=0.3), PreferenceLoss(beta=0.3, label_smoothing=0.2)
ORPO = PreferenceLoss(loss="orpo", beta=0.3)
LOSSES = pytest.mark.parametrize("loss", [DPO, SMOOTH, ORPO], ids=["dpo", "smooth", "orpo"])


def spec_of(loss=DPO, **fields):
    return make_spec("preference", max_tokens=32, preference=loss, **fields)


def build(loss=DPO, *, seed=1, architecture=None, **options):
    architecture = architecture or Architecture(config=LLAMA)
    return build_model(architecture, spec_of(loss), vocab_size=VOCABULARY, seed=seed, **options)


def disturb(model, scale=0.5):
    """As after some steps of training."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += scale * parameter.std() * torch.randn(parameter.shape, generator=generator)
    return model


def digest(model):
    """Of the weights that the model has now."""
    copied = PreferenceDecoder(model.decoder)
    copied.keep_reference()
    return copied.digest_reference()


def list_log_probabilities(model, tokens, is_target):
    """Of each target, one after the other: the definition, without batches, padding or softmax of torch."""
    found = []
    for place in np.flatnonzero(is_target):
        ids = torch.tensor(np.asarray(tokens[:place], np.int64))[None]
        with torch.no_grad():
            logits = model(input_ids_BT=ids, attention_mask_BT=torch.ones_like(ids))[0, -1].double().tolist()
        top = max(logits)
        total = math.log(math.fsum(math.exp(each - top) for each in logits)) + top
        found.append(logits[tokens[place]] - total)
    return found


def list_pairs(model, rows):
    """(log-probabilities of the chosen tokens, of the rejected ones) of each row."""
    pairs = []
    for tokens, is_target, (first, _) in zip(
        rows.input_ids, rows.is_target, rows.segment_lengths, strict=True
    ):
        halves = (slice(0, first), slice(first, None))
        pairs.append([list_log_probabilities(model, tokens[half], is_target[half]) for half in halves])
    return pairs


def expect(loss, own, reference):
    """(loss, reward margin, gain) of one pair, from the papers."""
    means = [math.fsum(each) / len(each) for each in own]
    gain = means[0] - means[1]
    if loss.loss == "orpo":
        odds = [math.exp(mean) / (1 - math.exp(mean)) for mean in means]
        ratio = math.log(odds[0] / odds[1])
        return -means[0] + loss.beta * math.log(1 + math.exp(-ratio)), loss.beta * gain, gain
    rewards = [loss.beta * (math.fsum(a) - math.fsum(b)) for a, b in zip(own, reference, strict=True)]
    margin, smoothing = rewards[0] - rewards[1], loss.label_smoothing
    right, wrong = math.log(1 + math.exp(-margin)), math.log(1 + math.exp(margin))
    return (1 - smoothing) * right + smoothing * wrong, margin, gain


@LOSSES
def test_losses_and_metrics_are_those_of_the_papers(loss):
    rows, task = pair_rows(6, seed=0), build_task(spec_of(loss))
    begun, model = build(loss).double().eval(), disturb(build(loss).double().eval())
    expected = [
        expect(loss, own, reference)
        for own, reference in zip(list_pairs(model, rows), list_pairs(begun, rows), strict=True)
    ]
    batch = task.collate(rows, CPU)
    outputs = model(**batch.inputs)
    assert task.loss_sum(outputs, batch).item() == pytest.approx(math.fsum(e[0] for e in expected), abs=1e-10)
    sums = task.sums(outputs, batch)
    metrics = task.metrics(task.sums(outputs, batch, sums.clone()))  # sums add over batches
    assert metrics == pytest.approx(
        {
            "loss": math.fsum(e[0] for e in expected) / 6,
            "preference_accuracy": sum(e[2] > 0 for e in expected) / 6,
            "reward_accuracy": sum(e[1] > 0 for e in expected) / 6,
            "reward_margin": math.fsum(e[1] for e in expected) / 6,
        },
        abs=1e-10,
    )
    assert 0 < metrics["preference_accuracy"] < 1  # both kinds occur


def test_a_pair_is_one_target_whatever_its_tokens():
    assert build_task(spec_of()).count_targets(np.array([3, 0, 17])).tolist() == [1, 1, 1]


@pytest.mark.parametrize("loss", [DPO, SMOOTH], ids=["dpo", "smooth"])
def test_the_first_loss_of_dpo_is_log_2_and_a_tie_is_no_reward(loss):
    rows, task = pair_rows(5, seed=1), build_task(spec_of(loss))
    batch, model = task.collate(rows, CPU), build(loss).eval()
    metrics = task.metrics(task.sums(model(**batch.inputs), batch))
    assert metrics["loss"] == pytest.approx(math.log(2), abs=1e-12)
    assert (metrics["reward_accuracy"], metrics["reward_margin"]) == (0, 0)


@pytest.mark.parametrize("most", [-1e-13, -1e-9, -1e-3, -0.69, -0.70, -5.0, -600.0])
def test_odds_have_a_value_and_a_slope_everywhere(most):
    task, rows = build_task(spec_of(ORPO)), pair_rows(1, seed=0)
    batch = task.collate(rows, CPU)
    num_targets = (batch.targets[:, 1:] != NO_LABEL).sum(1)
    outputs = (torch.tensor([most, -1.0], dtype=torch.float64) * num_targets)[:, None].requires_grad_()
    loss = task.loss_sum(outputs, batch)
    loss.backward()
    assert torch.isfinite(outputs.grad).all()
    if most < -1e-6:  # nearer to 0, the formula itself loses its digits
        assert float(loss.detach()) == pytest.approx(expect(ORPO, [[most], [-1.0]], None)[0], rel=1e-9)


@LOSSES
def test_a_diverged_model_has_no_accuracy(loss):
    batch = (task := build_task(spec_of(loss))).collate(pair_rows(3, seed=0), CPU)
    outputs = -torch.arange(1, 13, dtype=torch.float64).reshape(6, 2)
    assert math.isfinite(task.metrics(task.sums(outputs, batch))["preference_accuracy"])
    outputs[1] = torch.nan
    metrics = task.metrics(task.sums(outputs, batch))
    assert all(math.isnan(value) for value in metrics.values()), metrics


def test_a_row_that_is_no_pair_is_refused():
    rows = pair_rows(2, seed=0)
    rows = rows._replace(segment_lengths=[rows.segment_lengths[0], np.array([len(rows.input_ids[1])])])
    with pytest.raises(ValueError, match=r"row 1 .* has 1 segments, .* dataset.task=preference"):
        build_task(spec_of()).collate(rows, CPU)


def test_both_responses_see_their_prompt_and_nothing_of_the_other():
    rows, task = pair_rows(1, seed=0), build_task(spec_of())
    batch = task.collate(rows, CPU)
    first = int(rows.segment_lengths[0][0])
    assert batch.inputs["input_ids_BT"][0, :first].tolist() == rows.input_ids[0][:first].tolist()
    assert batch.inputs["attention_mask_BT"].sum(1).tolist() == rows.segment_lengths[0].tolist()
    other = batch._replace(inputs={**batch.inputs, "input_ids_BT": batch.inputs["input_ids_BT"].clone()})
    other.inputs["input_ids_BT"][1] = 5
    model = build().eval()
    assert torch.equal(model(**batch.inputs)[0], model(**other.inputs)[0])


def test_the_reference_is_in_no_state_and_has_no_gradient():
    model, plain = build(), build(ORPO)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert (model.digest_reference() is None, plain.digest_reference()) == (False, None)
    before = model.digest_reference()
    task, rows = build_task(spec_of()), pair_rows(4, seed=0)
    batch, optimizer = task.collate(rows, CPU), torch.optim.AdamW(model.parameters(), lr=0.1)
    task.loss_sum(model.train()(**batch.inputs), batch).backward()
    optimizer.step()
    assert model.digest_reference() == before != digest(model)


def test_the_reference_follows_the_model_and_shares_what_is_frozen():
    model = build(architecture=Architecture(config=LLAMA, frozen=("embed_tokens",)))
    (reference,) = model._reference
    assert reference.get_input_embeddings().weight is model.decoder.get_input_embeddings().weight
    own = model.decoder.model.layers[0].mlp.up_proj.weight
    assert reference.model.layers[0].mlp.up_proj.weight.data_ptr() != own.data_ptr()
    model.double().train()
    assert {each.dtype for each in reference.parameters()} == {torch.float64}
    assert not any(module.training for module in reference.modules())
    assert not any(each.requires_grad for each in reference.parameters())


def test_beside_an_adapter_the_base_is_not_copied():
    peft = pytest.importorskip("peft", reason="peft is not installed")
    model = build(ORPO)
    config = peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    peft.inject_adapter_in_model(config, model.decoder)
    model.keep_reference()
    (reference,) = model._reference
    own = dict(model.decoder.named_parameters())
    shared = {name for name, each in reference.named_parameters() if each is own[name]}
    assert shared == {name for name in own if "lora_" not in name}
    task, rows = build_task(spec_of()), pair_rows(3, seed=0)
    batch = task.collate(rows, CPU)
    assert task.loss_sum(model.eval()(**batch.inputs), batch).item() == pytest.approx(3 * math.log(2))
    with torch.no_grad():
        for name, parameter in own.items():
            parameter += 0.1 * ("lora_B" in name)
    outputs = model(**batch.inputs)
    begun = build(ORPO).eval()(**batch.inputs)[:, 0]
    assert torch.allclose(outputs[:, 1], begun, atol=1e-5)
    assert not torch.allclose(outputs[:, 0], begun, atol=1e-2)


def test_every_rank_reads_the_base_for_its_reference(tmp_path):
    base = build(ORPO, seed=7)
    save_model(base, make_tokenizer().to_str(), spec_of(ORPO), tmp_path / "base")
    architecture = Architecture(base=str(tmp_path / "base"))
    first, others = (build(architecture=architecture, load_weights=loads) for loads in (True, False))
    assert first.digest_reference() == others.digest_reference() == digest(base)
    assert digest(build(ORPO, architecture=architecture, load_weights=False)) != digest(base)


@pytest.fixture
def pairs_root(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTRIBUTARY_CACHE", str(tmp_path / "cache"))
    write_pairs(tmp_path / "cache")
    return tmp_path


def training_of(root, name, loss=DPO, **changes):
    return make_training(
        root,
        folder=str(root / name),
        task="preference",
        preference=loss,
        **{"architecture": Architecture(config=LLAMA), **changes},
    )


@LOSSES
def test_a_training_learns_to_prefer(pairs_root, loss):
    training = training_of(pairs_root, "run", loss)
    result = train_rank(training, alone())
    before, after = result["before"], result["after"]
    assert result["metric"] == "preference_accuracy"
    assert before["preference_accuracy"] < 0.7
    assert min(after["preference_accuracy"], after["reward_accuracy"]) > 0.9
    assert after["loss"] < before["loss"]
    assert after["reward_margin"] > before["reward_margin"]
    assert (Folder(training.folder) / "model").names()
    assert Folder(training.folder).exists("reference.json") == loss.needs_reference


class KilledError(Exception):
    """The process ends here."""


def train_until(step, training, monkeypatch):
    """Train until the checkpoint of `step` is complete, and end there."""
    save = SingleProcess.save

    def die_after_saving(self, checkpoints, state):
        save(self, checkpoints, state)
        if state.step == step:
            raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(SingleProcess, "save", die_after_saving)
        with pytest.raises(KilledError):
            train_rank(training, alone())


@LOSSES
def test_a_restarted_training_has_the_same_reference_and_weights(pairs_root, monkeypatch, loss):
    whole, broken = (training_of(pairs_root, name, loss) for name in ("whole", "broken"))
    expected = train_rank(whole, alone())
    train_until(14, broken, monkeypatch)
    assert train_rank(broken, alone()) == expected  # with the sha256 of the weights
    assert read_losses(pairs_root / "broken") == read_losses(pairs_root / "whole")


def test_another_reference_is_refused_when_a_training_continues(pairs_root, monkeypatch):
    base = pairs_root / "base"
    training = training_of(pairs_root, "run", architecture=Architecture(base=str(base)))
    save_model(build(ORPO, seed=7), make_tokenizer().to_str(), spec_of(ORPO), base)
    train_until(7, training, monkeypatch)
    save_model(build(ORPO, seed=8), make_tokenizer().to_str(), spec_of(ORPO), base)
    with pytest.raises(ValueError, match=r"began with sha256 [0-9a-f]{13}, but 1 of 1 ranks .*delete /"):
        train_rank(training, alone())
    save_model(build(ORPO, seed=7), make_tokenizer().to_str(), spec_of(ORPO), base)
    assert train_rank(training, alone())["best_step"] > 0


def test_the_reference_is_the_base_without_a_prefix(tmp_path):
    base = build(architecture=Architecture(config={**LLAMA, "max_position_embeddings": 40}))
    base.decoder.save_pretrained(tmp_path / "base")
    architecture = Architecture(base=str(tmp_path / "base"), adapter=Adapter(kind="prefix", prefix_tokens=3))
    model = build(architecture=architecture).eval()
    ids_BT = torch.tensor([[5, 6, 7, 8]])
    inputs = (ids_BT, torch.ones_like(ids_BT, dtype=torch.bool), ids_BT)
    with torch.no_grad():
        expected, found = base.eval()(*inputs)[:, 0], model(*inputs)
    assert torch.equal(found[:, 1], expected)
    assert not torch.equal(found[:, 0], expected)
