"""Losses of preference pairs beside TRL's DPOTrainer and ORPOTrainer: same texts, same model, in float32.

Pairs are made of questions of Banking77 (chosen: another one of the class, rejected: one of another class)
and of Chinese sentences. Ours goes from texts through the dataset stage's builder to the loss of the task;
TRL goes from texts through its own tokenizing and collating to the loss of its trainer, one pair a batch. The
model of the training is not its reference: noise was added to its weights.

TRL's ORPO averages the negative log-likelihood over prompt and response, ours over the response alone. So
whole ORPO losses are compared on pairs with a prompt of one token, which nothing predicts, and the odds ratio
on the others.

Needs the environment `trl` of `python -m benchmarks.peers`. Exit status: 0 if all differences are below 1e-5
and all tokens equal, else 2.
"""

import csv
import gzip
import json
import random
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.table import Table
from transformers import PreTrainedTokenizerFast

from benchmarks.measuring import run_benchmark
from benchmarks.peers import ask_peer, find_peer
from jobs.shell.display import console
from pipelines.dataset.examples.example import Document, ExampleSettings, Part
from pipelines.dataset.examples.preference import PreferenceExamples
from pipelines.dataset.tokenizer import ChosenTokenizer, train_bpe, wrap_trained
from pipelines.finetune.models.architecture import Architecture, ModelSpec
from pipelines.finetune.models.build import build_model
from pipelines.finetune.models.preference import PreferenceDecoder
from pipelines.finetune.preference import LossName, PreferenceLoss
from pipelines.finetune.tasks.preference import Preference, make_rows

DATA = Path(__file__).parent.parent / "data"
RESULT = Path(__file__).parent / "results" / "preference.json"
NUM_PAIRS, MAX_TOKENS, BETA, TOLERANCE = 32, 512, 0.1, 1e-5
NOISE = 0.3
"""Of the weights of a matrix, in their standard deviations."""
MODEL = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": MAX_TOKENS,
}
Pair = dict[str, str]
Batches = list[dict[str, Any]]
"""Of each pair `loss`, `odds` (only of orpo) and `tokens`, those of the chosen and of the rejected unit."""


def make_pairs() -> list[Pair]:
    """Responses begin with a space, where the tokenizer cuts: TRL encodes a prompt with its response in one
    piece."""
    with (DATA / "banking77" / "train.csv").open(newline="", encoding="utf-8") as file:
        rows = [(text, label) for text, label in list(csv.reader(file))[1:] if "\n" not in text]
    with gzip.open(DATA / "chinese" / "sib200.jsonl.gz", "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    chinese = [each["text"] for each in records if each["language"] == "zh-Hans"]
    draw, pairs = random.Random(1), []
    for number in range(NUM_PAIRS // 2):
        prompt, label = draw.choice(rows)
        chosen = draw.choice([text for text, own in rows if own == label and text != prompt])
        rejected = draw.choice([text for text, own in rows if own != label])
        pairs.append({"prompt": prompt, "chosen": f" {chosen}", "rejected": f" {rejected}"})
        three = chinese[3 * number : 3 * number + 3]
        pairs.append({"prompt": three[0], "chosen": f" {three[1]}", "rejected": f" {three[2]}"})
    return pairs


def write_inputs(place: Path, pairs: list[Pair]) -> tuple[ChosenTokenizer, PreferenceDecoder]:
    """Tokenizer, model and pairs for TRL; ours of the same."""
    tokenizer = train_bpe((text for pair in pairs for text in pair.values()), vocab_size=2_000)
    chosen = wrap_trained(tokenizer)
    end = tokenizer.id_to_token(chosen.require_end_token("preference"))
    written = {**json.loads(tokenizer.to_str()), "post_processor": None}  # TRL adds the end token itself
    (place / "tokenizer.json").write_text(json.dumps(written), encoding="utf-8")
    file = str(place / "tokenizer.json")
    library = PreTrainedTokenizerFast(tokenizer_file=file, eos_token=end, pad_token=end)
    library.save_pretrained(place / "tokenizer")
    spec = make_spec(chosen, PreferenceLoss())
    model = build_model(Architecture(config=MODEL), spec, vocab_size=tokenizer.get_vocab_size(), seed=1)
    assert isinstance(model, PreferenceDecoder), "the task builds it"
    model.decoder.save_pretrained(place / "reference")
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise * parameter.std(), alpha=NOISE)
    model.decoder.save_pretrained(place / "policy")
    return chosen, model.eval()


def make_spec(chosen: ChosenTokenizer, loss: PreferenceLoss) -> ModelSpec:
    return ModelSpec(
        task="preference",
        labels=(),
        max_tokens=MAX_TOKENS,
        base="scratch",
        tokenizer="",
        end_token_id=chosen.end_token_id,
        preference=loss,
    )


@torch.no_grad()
def measure_ours(
    chosen: ChosenTokenizer, model: PreferenceDecoder, pairs: list[Pair], loss: LossName
) -> Batches:
    """One pair after the other. The odds ratio follows from two losses with different weights of it."""
    tasks = [Preference(make_spec(chosen, PreferenceLoss(loss=loss, beta=beta))) for beta in (BETA, 1 + BETA)]
    settings = ExampleSettings(max_tokens=2 * MAX_TOKENS, end_token_id=chosen.end_token_id)
    builder, found = PreferenceExamples(chosen.tokenizer, settings), Batches()
    for pair in pairs:
        parts = tuple(Part(*each) for each in pair.items())
        (example,) = builder.build([Document("d", "", parts=parts)])
        batch = tasks[0].collate(make_rows([example]), torch.device("cpu"))
        outputs = model(**batch.inputs)
        first, second = (float(task.loss_sum(outputs, batch)) for task in tasks)
        rows = zip(batch.inputs["input_ids_BT"], batch.inputs["attention_mask_BT"], strict=True)
        tokens = [ids[mask].tolist() for ids, mask in rows]
        found.append({"loss": first, "odds": first - second, "tokens": tokens})
    return found


def compare(loss: str, what: str, ours: Batches, theirs: Batches) -> dict[str, Any]:
    """Raises RuntimeError if the tokens of a pair differ."""
    for number, (own, other) in enumerate(zip(ours, theirs, strict=True)):
        if own["tokens"] != other["tokens"]:
            raise RuntimeError(f"pair {number} has other tokens in TRL: {other['tokens']}")
    values = [np.array([each[what] for each in side]) for side in (ours, theirs)]
    return {
        "loss": loss,
        "what": what,
        "pairs": len(ours),
        "tokens": sum(len(unit) for each in ours for unit in each["tokens"]),
        "ours": float(values[0].mean()),
        "trl": float(values[1].mean()),
        "largest_difference": float(np.abs(values[0] - values[1]).max()),
    }


def measure() -> dict[str, Any]:
    python = find_peer("trl")
    if python is None:
        raise FileNotFoundError("TRL is not installed; run: python -m benchmarks.peers")
    pairs = make_pairs()
    short = [{**pair, "prompt": "?"} for pair in pairs]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        chosen, model = write_inputs(place, [*pairs, *short])
        runs: list[tuple[LossName, str, list[Pair]]] = [
            ("dpo", "loss", pairs),
            ("orpo", "odds", pairs),
            ("orpo", "loss", short),
        ]
        for loss, what, given in runs:
            (place / "pairs.json").write_text(json.dumps(given), encoding="utf-8")
            theirs: Any = ask_peer(python, TRL, loss, place, BETA)
            rows.append(compare(loss, what, measure_ours(chosen, model, given, loss), theirs["batches"]))
    show(rows)
    worst = max(row["largest_difference"] for row in rows)
    if worst >= TOLERANCE:
        raise RuntimeError(f"a loss differs from TRL's by {worst:.1e}, at most {TOLERANCE:.0e} may be")
    return {"beta": BETA, "rows": rows}


def show(rows: list[dict[str, Any]]) -> None:
    table = Table(
        "loss", "value", "pairs", "tokens", "ours, mean", "TRL, mean", "largest difference of a pair"
    )
    for row in rows:
        means = [f"{row[name]:.7f}" for name in ("ours", "trl")]
        counts = [f"{row[name]:,}" for name in ("pairs", "tokens")]
        table.add_row(row["loss"], row["what"], *counts, *means, f"{row['largest_difference']:.1e}")
    console.print(table)


TRL = """
import json, os, sys
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

loss, place, beta = sys.argv[1], sys.argv[2], float(sys.argv[3])
pairs = Dataset.from_list(json.load(open(f"{place}/pairs.json")))
tokenizer = PreTrainedTokenizerFast.from_pretrained(f"{place}/tokenizer")
policy, reference = (
    AutoModelForCausalLM.from_pretrained(f"{place}/{name}", dtype=torch.float32, attn_implementation="eager")
    for name in ("policy", "reference"))
options = dict(
    output_dir=f"{place}/trl", beta=beta, per_device_train_batch_size=1, per_device_eval_batch_size=1,
    bf16=False, gradient_checkpointing=False, use_cpu=True, report_to="none",
    max_length=512, remove_unused_columns=False)
given = dict(model=policy, train_dataset=pairs, eval_dataset=pairs, processing_class=tokenizer)

def read_tokens(ids, mask):
    return [row[own.bool()].tolist() for row, own in zip(ids, mask)]

batches = []
if loss == "dpo":
    from trl import DPOConfig, DPOTrainer
    trainer = DPOTrainer(ref_model=reference, args=DPOConfig(**options), **given)
    policy.eval()
    for batch in trainer.get_eval_dataloader():
        with torch.no_grad():
            value = float(trainer.compute_loss(trainer.model, batch))
        batches.append({"loss": value, "tokens": read_tokens(batch["input_ids"], batch["attention_mask"])})
else:
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer
    trainer = ORPOTrainer(args=ORPOConfig(**options), **given)
    policy.eval()
    for batch in trainer.get_eval_dataloader():
        with torch.no_grad():
            value, metrics = trainer.get_batch_loss_metrics(trainer.model, batch, "train")
        units = [
            token for name in ("chosen", "rejected")
            for token in read_tokens(batch[f"{name}_input_ids"], batch[f"{name}_attention_mask"])]
        batches.append({"loss": float(value), "odds": metrics["log_odds_ratio"], "tokens": units})
print(json.dumps({"batches": batches}))
"""
"""Arguments: dpo or orpo, the folder, beta."""


def main(output: Annotated[Path, typer.Option(help="Result as JSON.")] = RESULT) -> None:
    """Compare the losses of preference pairs with TRL's."""
    run_benchmark(measure, output)


if __name__ == "__main__":
    typer.run(main)
