"""Preference: the chosen response of a prompt shall be likelier than the rejected one. One target per pair.

With log p the log-probability of a response given its prompt, summed over its tokens, and m its mean per
token:

    dpo   -(1 - s) log sigmoid(x) - s log sigmoid(-x),
          x = beta * ((log p(chosen) - log r(chosen)) - (log p(rejected) - log r(rejected)))
    orpo  -m(chosen) - beta * log sigmoid(odds(chosen) - odds(rejected)),  odds = m - log(1 - exp(m))

r is the reference and s label_smoothing. dpo: Rafailov et al. 2023, eq. 7, smoothed as in Mitchell 2023
(cDPO). orpo: Hong et al. 2024, eq. 2, 4, 6 and 7; beta is their lambda. The first term is that of each
response. TRL's is a mean over the tokens of all chosen responses of a batch, with their prompts, so it
depends on how rows are split; its second term is ours.

Shapes: P pairs, B = 2 P responses, first all chosen, then all rejected ones, T tokens, M models.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from pipelines.dataset.chat_format import ChatFormat
from pipelines.dataset.examples.example import Document, Example, ExampleSettings
from pipelines.dataset.examples.preference import PreferenceExamples, drop_responses, is_pair
from pipelines.dataset.rows import NO_LABEL, Rows
from pipelines.finetune.models.architecture import ModelSpec
from pipelines.finetune.models.padding import mark_real, send, stack
from pipelines.finetune.models.preference import PreferenceDecoder
from pipelines.finetune.preference import PreferenceLoss
from pipelines.finetune.tasks.conversations import MAX_NEW_TOKENS, ConversationReader
from pipelines.finetune.tasks.language_modelling import LanguageModelling
from pipelines.finetune.tasks.task import Batch, Draw, Prediction
from pipelines.finetune.tasks.texts import batch_by_length
from pipelines.metrics import METRICS

LEAST_SURPRISE = 1e-12
"""Nats of a token, at least: the odds of a certain response have no logarithm."""
SUMS = ("nats", "num_pairs", "num_preferred", "num_rewarded", "reward_margins")


class Preference:
    """A causal decoder that learns from pairs; the gate asks how many it ranks right without a reference."""

    name, metric, auto_class = "preference", "preference_accuracy", "AutoModelForCausalLM"
    compares_rows = False

    def __init__(self, spec: ModelSpec) -> None:
        self._loss = spec.preference or PreferenceLoss()
        self._writer = LanguageModelling(
            spec, name=self.name, open_reader=ConversationReader, max_new_tokens=MAX_NEW_TOKENS
        )
        settings = ExampleSettings(
            max_tokens=spec.max_tokens, end_token_id=spec.end_token_id, chat=spec.chat or ChatFormat()
        )
        self._open_builder = lru_cache(maxsize=1)(lambda tokenizer: PreferenceExamples(tokenizer, settings))

    def build_module(self, backbone: Any) -> nn.Module:
        return PreferenceDecoder(backbone)

    def count_targets(self, num_targets: np.ndarray) -> np.ndarray:
        return np.ones_like(num_targets)

    def collate(self, rows: Rows, device: torch.device, draw: Draw | None = None) -> Batch:
        """The two units of a row become two rows: attention costs half as much as in one, and every
        architecture keeps them apart."""
        other = next((row for row, each in enumerate(rows.segment_lengths) if len(each) != 2), None)
        if other is not None:
            raise ValueError(
                f"row {other} of this batch has {len(rows.segment_lengths[other])} segments, but preference "
                "needs two, a chosen and a rejected response; run the dataset stage with "
                "dataset.task=preference"
            )
        firsts = [int(lengths[0]) for lengths in rows.segment_lengths]
        ids, is_target = (
            [row[:first] for row, first in zip(values, firsts, strict=True)]
            + [row[first:] for row, first in zip(values, firsts, strict=True)]
            for values in (rows.input_ids, rows.is_target)
        )
        ids_BT = stack(ids, np.int32)
        targets = send(np.where(stack(is_target, np.bool_), ids_BT, np.int32(NO_LABEL)), device)
        inputs = {
            "input_ids_BT": send(ids_BT, device),
            "attention_mask_BT": send(mark_real(ids), device),
            "target_ids_BT": targets,
        }
        return Batch(inputs, targets, int(rows.num_bytes.sum()), num_sequences=len(firsts))

    def loss_sum(self, outputs: Tensor, batch: Batch) -> Tensor:
        """`outputs`: (B, M), see PreferenceDecoder."""
        return self._compare(outputs, batch).losses_P.sum()

    def row_losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        return self._compare(outputs, batch).losses_P

    def sums(self, outputs: Tensor, batch: Batch, total: Tensor | None = None) -> Tensor:
        """K = 5, as SUMS."""
        found = self._compare(outputs, batch)
        nats = found.losses_P.detach().sum()
        sums = torch.stack(
            [
                nats,
                torch.full_like(nats, len(found.losses_P)),
                _count_positive(found.gains_P),
                _count_positive(found.margins_P),
                found.margins_P.sum(),
            ]
        )
        return sums if total is None else total.add_(sums)

    def metrics(self, sums: Tensor) -> dict[str, float]:
        known = dict(zip(SUMS, sums.tolist(), strict=True))
        known["num_targets"] = known["num_pairs"]
        names = ("loss", "preference_accuracy", "reward_accuracy", "reward_margin")
        return {name: METRICS[name].compute(known) for name in names}

    def confusion(self, sums: Tensor) -> np.ndarray | None:
        return None

    def sample_text(self, model: nn.Module, tokenizer: Tokenizer, rows: Rows) -> str | None:
        """What the model answers to the prompts of the first rows."""
        return self._writer.sample_text(model, tokenizer, rows)

    def predict(
        self,
        model: nn.Module,
        tokenizer: Tokenizer,
        documents: Sequence[Document],
        *,
        batch_size: int,
        generate: bool = True,
    ) -> list[Prediction]:
        """The greedy answer to the prompt, and by how many nats a token the chosen response is likelier than
        the rejected one: above 0 = ranked right. A document that is no pair, or cannot be read, scores 0.

        Pairs are cut as in training.
        """
        predictions = [Prediction("", 0.0)] * len(documents)
        if generate:
            asked = [drop_responses(document) for document in documents]
            predictions = self._writer.predict(model, tokenizer, asked, batch_size=batch_size)
        builder: PreferenceExamples = self._open_builder(tokenizer)
        pairs = [row for row, document in enumerate(documents) if is_pair(document)]
        examples = list(builder.build([documents[row] for row in pairs]))
        readable = [number for number, example in enumerate(examples) if example.problem is None]
        gains = self._measure_gains(model, [examples[number] for number in readable], batch_size)
        scores = dict(zip(readable, gains, strict=True))
        for number, (row, example) in enumerate(zip(pairs, examples, strict=True)):
            num_bytes, problem = builder.count_answer_bytes(documents[row]), example.problem
            answer = predictions[row].prediction if problem is None else ""
            problem = problem or predictions[row].problem
            predictions[row] = Prediction(answer, scores.get(number, 0.0), num_bytes, problem)
        return predictions

    def _measure_gains(self, model: nn.Module, examples: Sequence[Example], batch_size: int) -> list[float]:
        device = next(model.parameters()).device
        gains = [0.0] * len(examples)
        tokens = [np.concatenate([unit.input_ids for unit in each.units]).tolist() for each in examples]
        for numbers in batch_by_length(tokens, batch_size):
            batch = self.collate(make_rows([examples[number] for number in numbers]), device)
            found = _mean_difference(model(**batch.inputs)[:, 0], batch)
            for number, gain in zip(numbers, found.tolist(), strict=True):
                gains[number] = gain
        return gains

    def _compare(self, outputs: Tensor, batch: Batch) -> "_Comparison":
        loss = self._loss
        chosen_PM, rejected_PM = outputs.chunk(2)
        gains_P = _mean_difference(outputs[:, 0], batch).detach()
        if loss.loss == "dpo":
            if outputs.shape[1] != 2:
                raise ValueError(
                    "loss dpo needs the reference of the model; call keep_reference before a training starts"
                )
            differences_PM = chosen_PM - rejected_PM
            margins_P = loss.beta * (differences_PM[:, 0] - differences_PM[:, 1])
            right, wrong = -logsigmoid(margins_P), -logsigmoid(-margins_P)
            smoothing = loss.label_smoothing
            losses_P = (1 - smoothing) * right + smoothing * wrong
            return _Comparison(losses_P, margins_P.detach(), gains_P)
        means_B = outputs[:, 0] / _count_targets(batch)
        chosen_P, rejected_P = means_B.chunk(2)
        odds_P, other_odds_P = _log_odds(means_B).chunk(2)
        losses_P = -chosen_P - loss.beta * logsigmoid(odds_P - other_odds_P)
        return _Comparison(losses_P, (loss.beta * (chosen_P - rejected_P)).detach(), gains_P)


class _Comparison(NamedTuple):
    """Of each pair."""

    losses_P: Tensor
    margins_P: Tensor
    """Implied reward of the chosen response (dpo: beta * log(p / r), orpo: beta * m) less that of the
    rejected one."""
    gains_P: Tensor
    """Mean log-probability of a token of the chosen response less that of the rejected one."""


def _count_targets(batch: Batch) -> Tensor:
    """(B,) float64; at least one in every response that the dataset stage makes."""
    return (batch.targets[:, 1:] != NO_LABEL).sum(1).clamp(min=1).double()


def _mean_difference(log_probabilities_B: Tensor, batch: Batch) -> Tensor:
    chosen_P, rejected_P = (log_probabilities_B / _count_targets(batch)).chunk(2)
    return chosen_P - rejected_P


def _count_positive(values_P: Tensor) -> Tensor:
    """How many are above 0; a float64 scalar, NaN if a value is, so that a diverged model has no accuracy."""
    return torch.where(values_P.isnan(), values_P, (values_P > 0).to(values_P.dtype)).sum().double()


def _log_odds(means_B: Tensor) -> Tensor:
    """log(q / (1 - q)) for q = exp(m). Each of the two ways to compute log(1 - q) is exact in its half
    (Maechler 2012)."""
    means_B = means_B.clamp(max=-LEAST_SURPRISE)
    is_near_0 = means_B > -math.log(2)
    # The way that is not taken gets a harmless value: its gradient times 0 would be no number.
    near = torch.log(-torch.expm1(means_B.where(is_near_0, -1.0)))
    far = torch.log1p(-torch.exp(means_B.where(~is_near_0, -1.0)))
    return means_B - near.where(is_near_0, far)


def make_rows(examples: Sequence[Example]) -> Rows:
    """As the dataset stage writes them."""
    none = np.zeros(len(examples), dtype=np.int64)
    return Rows(
        input_ids=[np.concatenate([unit.input_ids for unit in each.units]) for each in examples],
        is_target=[np.concatenate([unit.is_target for unit in each.units]) for each in examples],
        segment_lengths=[np.array([len(unit.input_ids) for unit in each.units]) for each in examples],
        labels=np.full(len(examples), NO_LABEL),
        num_targets=none,
        num_bytes=none,
    )
