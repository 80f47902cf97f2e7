"""What a plan refuses before a run, a rank or a download exists."""

from types import SimpleNamespace

import pytest

from pipelines.dataset import artefacts
from pipelines.dataset.artefacts import Artefact, provide_artefacts
from pipelines.finetune import optimization
from pipelines.finetune.models.adapter import Adapter
from pipelines.finetune.models.architecture import NEXT_TOKEN_TASKS, Architecture
from pipelines.finetune.models.build import build_model
from pipelines.finetune.models.decoder import Decoder
from pipelines.finetune.optimization import Optimization
from pipelines.finetune.plan import make_training
from pipelines.finetune.tasks.table import TASKS
from pipelines.finetune.teacher import Teacher
from tests.finetune.data import VOCABULARY
from tests.finetune.test_model import TINY_BERT, TINY_LLAMA
from tests.finetune.test_task import make_spec

NEXT = (KeyError, "task")
"""What the sequences of these tests lack; it is asked for behind the checks."""
ENCODERS = ("classification", "masked_language_modelling", "multi_label_classification", "retrieval")


class Known:
    """A store that has a version under every name."""

    def find(self, name):
        return Artefact("models:/intents/3", "m-1", {})


@pytest.fixture
def store(monkeypatch):
    monkeypatch.setattr(artefacts, "_open", None)
    provide_artefacts(Known)
    yield
    artefacts.find_artefact.cache_clear()


def plan(*, model=None, max_logit_tokens=None, sequence_losses=False, optimizer="adamw", ranks=None, **facts):
    """`ranks`: settings of the ranks."""
    given = {"strategy": "data_parallel", "num_ranks": 1, "collectives": "horovod", **(ranks or {})}
    settings = SimpleNamespace(
        **{"compile": False, "timeline": False, "compare_replicas_every_steps": None, **given},
        global_batch=8,
        micro_batch=8,
        model=model or Architecture(config=TINY_BERT),
        optimization=Optimization(optimizer=optimizer),
        max_logit_tokens=max_logit_tokens,
        sequence_losses=sequence_losses,
        teacher=Teacher(),
    )
    return make_training(settings, SimpleNamespace(facts=facts, path="/no/table"))


@pytest.mark.parametrize("task", TASKS)
def test_logits_are_limited_where_next_tokens_are_predicted(task):
    config = TINY_BERT if task in ENCODERS else TINY_LLAMA
    spec = make_spec(task, labels=("a", "b"))
    model = build_model(Architecture(config=config), spec, vocab_size=VOCABULARY, seed=0)
    assert (task in NEXT_TOKEN_TASKS) == isinstance(model, Decoder)
    expected, message = ValueError, r"max_logit_tokens is for tasks that .*set it to null"
    if task in NEXT_TOKEN_TASKS:
        expected, message = AttributeError, "no attribute"  # the next of these settings
    with pytest.raises(expected, match=message):
        plan(task=task, max_logit_tokens=100)


def test_losses_of_sequences_are_refused_where_a_sequence_has_none():
    with pytest.raises(ValueError, match=r"sequence_losses is true, but in task retrieval .*set it to false"):
        plan(task="retrieval", sequence_losses=True)
    with pytest.raises(AttributeError, match="no attribute"):  # the next of these settings
        plan(task="classification", sequence_losses=True)


@pytest.mark.parametrize(
    ("installed", "is_refused"), [("2.8.1+cpu", True), ("2.9.0", False), ("2.10.0a0", False)]
)
def test_a_torch_without_muon_is_refused(monkeypatch, installed, is_refused):
    monkeypatch.setattr(optimization, "version", lambda name: {"torch": installed}[name])
    refusal = (ValueError, r"muon, which torch 2\.8\.1\+cpu does not have; install torch 2\.9 or later")
    expected, message = refusal if is_refused else NEXT
    with pytest.raises(expected, match=message):
        plan(optimizer="muon", max_logit_tokens=1)


@pytest.mark.parametrize(
    ("adapter", "is_refused"),
    [(Adapter(kind="lora", merge=False), True), (Adapter(kind="lora"), False), (Adapter(merge=False), False)],
)
def test_an_adapter_alone_on_a_base_of_mlflow_is_refused(store, adapter, is_refused):
    model = Architecture(base="models:/intents@champion", adapter=adapter)
    refusal = (ValueError, r"the base models:/intents/3 is in MLflow.*set .*merge=true, or download")
    expected, message = refusal if is_refused else NEXT
    with pytest.raises(expected, match=message):
        plan(model=model, max_logit_tokens=1)


@pytest.mark.parametrize(
    "ranks", [{"num_ranks": 2, "collectives": "torch"}, {"num_ranks": 1, "collectives": "horovod"}]
)
def test_a_timeline_needs_horovod(ranks):
    with pytest.raises(ValueError, match=r"collectives is \w+ with num_ranks \d; set timeline to false"):
        plan(task="classification", ranks={**ranks, "timeline": True})


def test_what_horovod_does_may_be_recorded():
    with pytest.raises(AttributeError, match="no attribute"):  # behind the checks
        plan(task="classification", ranks={"num_ranks": 2, "timeline": True, "compile": True})


def test_layers_are_not_compiled_where_outputs_are_computed_twice():
    with pytest.raises(ValueError, match=r"compile: task retrieval computes its outputs twice .* to false"):
        plan(task="retrieval", ranks={"compile": True})
