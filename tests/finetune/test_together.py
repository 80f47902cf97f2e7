"""Several adapters on one base in memory: outputs as of each model alone, in any order and from threads."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from pipelines.finetune.models.adapter import Adapter, BaseWeights
from pipelines.finetune.models.architecture import Architecture
from pipelines.finetune.models.build import build_model
from pipelines.finetune.models.folder import load_model, save_model
from pipelines.finetune.models.generate import generate_greedily
from pipelines.finetune.models.lora import is_own
from pipelines.finetune.models.together import load_together, require_one_base
from pipelines.scoring.predict import Predictor
from tests.finetune.test_adapter_kinds import move
from tests.finetune.test_adapters import IDS, MASK, MODELS, TOKENIZER
from tests.finetune.test_model import TINY_BERT, logits, make_spec

NAMES = pytest.mark.parametrize("name", ["bert", "llama"])


def write_models(root, name, **changes):
    """Models on one base: all kinds, other layers, ranks and values; some are merged."""
    task, config = MODELS[name]
    spec = make_spec(task, end_token_id=1)
    base = build_model(Architecture(config=config), spec, vocab_size=260, seed=7)
    (base.encoder if name == "bert" else base.decoder).save_pretrained(root / "base")
    query = "query" if name == "bert" else "q_proj"
    adapters = {
        "all": Adapter(kind="lora", rank=4, merge=False),
        "some": Adapter(kind="dora", rank=2, target_modules=(query,), merge=False),
        "merged": Adapter(kind="rslora", rank=3),
        "ranks": Adapter(kind="adalora", rank=2, merge=False),
        "network": Adapter(kind="bottleneck", rank=3),
        "tokens": Adapter(kind="prefix", prefix_tokens=3),
        "last": Adapter(kind="lora", rank=2, target_modules=(query,)),
    }
    for seed, (each, adapter) in enumerate(adapters.items()):
        architecture = Architecture(base=str(root / "base"), adapter=adapter, **changes.get(each, {}))
        module = move(build_model(architecture, spec, vocab_size=260, seed=seed))
        torch.save(logits(module, IDS, MASK), root / f"{each}.pt")
        save_model(module, TOKENIZER, spec, root / each)
    return {each: root / each for each in adapters}


@NAMES
def test_outputs_are_those_of_each_model_alone(tmp_path, name):
    folders = write_models(tmp_path, name)
    together = load_together(folders)
    expected = {each: torch.load(tmp_path / f"{each}.pt", weights_only=True) for each in folders}
    assert not torch.equal(expected["all"], expected["some"])
    for each in (*folders, "some", *reversed(folders)):
        assert torch.equal(logits(together[each].module, IDS, MASK), expected[each])  # before the merge
    apart = logits(load_model(folders["merged"]).module, IDS, MASK)
    assert (apart - expected["merged"]).abs().max() < 1e-5


def test_the_base_is_in_memory_once(tmp_path):
    folders = write_models(tmp_path, "bert")
    together = load_together(folders)
    pointers = [
        {
            each.data_ptr()
            for key, each in model.module.named_parameters()
            if not is_own(key) and ".head." not in key
        }
        for model in together.values()
    ]
    assert all(each == pointers[0] for each in pointers)
    heads = {model.module.module.head.weight.data_ptr() for model in together.values()}
    assert len(heads) == len(together) == 7


def test_threads_get_the_outputs_of_their_own_model(tmp_path):
    folders = write_models(tmp_path, "bert")
    predictors = {name: Predictor(model) for name, model in load_together(folders).items()}
    texts = [f"some text {number}" for number in range(8)]
    expected = {name: Predictor.load(folders[name]).predict(texts) for name in ("all", "some")}
    assert expected["all"] != expected["some"]
    turns = ["all", "some"] * 20
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda name: predictors[name].predict(texts), turns))
    assert [rows == expected[name] for name, rows in zip(turns, found, strict=True)] == [True] * 40


def test_a_model_of_several_keeps_values_while_it_writes(tmp_path):
    together = load_together(write_models(tmp_path, "llama"))
    options = {"max_new_tokens": [4, 2], "stop_ids": ()}
    seen = []
    for name in ("tokens", "all"):
        module = together[name].module.module
        with together[name].module.using():
            expected = generate_greedily(module, [[5, 6, 7], [8, 9]], **options)  # probes it, too
        hook = module.decoder.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
        )
        assert generate_greedily(together[name].module, [[5, 6, 7], [8, 9]], **options) == expected
        hook.remove()
    assert seen == [(2, 3), (2, 1), (1, 1), (1, 1)] * 2


def test_models_of_different_bases_are_refused(tmp_path):
    folders = write_models(tmp_path / "one", "bert")
    other = write_models(tmp_path / "two", "bert")  # the same values in another place
    assert load_together({"a": folders["all"], "b": other["some"]}).keys() == {"a", "b"}
    llama = write_models(tmp_path / "three", "llama")
    with pytest.raises(ValueError, match=r"models 'a' and 'b' belong to different bases: .*one/base, sha256"):
        load_together({"a": folders["all"], "b": llama["all"]})
    changed = write_models(tmp_path / "four", "bert", some={"config": {"layer_norm_eps": 1e-3}})
    with pytest.raises(
        ValueError, match=r"'all' and 'some' changed other keys of their base, {} and {'layer_"
    ):
        load_together(changed)


def test_other_parts_of_one_base_are_named():
    bases = {
        name: BaseWeights(sha256=digest * 64, name="org/base", commit="c1")
        for name, digest in {"mood": "a", "write": "b"}.items()
    }
    with pytest.raises(ValueError, match=r"'mood' and 'write' were trained from org/base@c1, but on other p"):
        require_one_base(bases)


def test_models_without_an_adapter_or_a_kept_base_are_refused(tmp_path):
    spec = make_spec()
    save_model(
        build_model(Architecture(config=TINY_BERT), spec, vocab_size=260, seed=1),
        TOKENIZER,
        spec,
        tmp_path / "w",
    )
    scratch = Architecture(config=TINY_BERT, adapter=Adapter(kind="lora"))
    save_model(build_model(scratch, spec, vocab_size=260, seed=1), TOKENIZER, spec, tmp_path / "s")
    with pytest.raises(ValueError, match=r"w has no adapter; give model folders"):
        load_together({"a": tmp_path / "w"})
    with pytest.raises(ValueError, match=r"the base of .*s was drawn from a seed .*; load the whole model"):
        load_together({"a": tmp_path / "s"})
    assert load_together({}) == {}
