"""Candidates of Optuna's TPE sampler (Bergstra et al. 2011), proposed in batches.

Optuna keeps nothing: its study lives in memory, and a search that is run again tells it the same scores in
the same order, so it proposes the same candidates. The candidates of a batch do not know each other's scores;
with a constant liar the sampler keeps them apart.
"""

import math
from typing import Any

from pipelines.finetune.search.rules import Range, SearchRules, Settings, Space, Value
from pipelines.finetune.search.score import Candidate, Rounds, Score

STARTUP_TRIALS = 10
"""Optuna's own default: as many candidates are random before the sampler has a model."""


def propose(rules: SearchRules, space: Space) -> Rounds:
    """num_trials candidates. Raises ImportError with the remedy without Optuna."""
    optuna = load_optuna()
    sampler = optuna.samplers.TPESampler(
        seed=rules.seed % 2**32,
        constant_liar=True,
        n_startup_trials=min(STARTUP_TRIALS, max(1, rules.num_trials // 2)),
    )
    study = optuna.create_study(direction="minimize", sampler=sampler)
    for first in range(0, rules.num_trials, rules.optuna_batch):
        size = min(rules.optuna_batch, rules.num_trials - first)
        trials = [study.ask() for _ in range(size)]
        scores: list[Score] = yield [
            Candidate(number=first + place, settings=_suggest(trial, space))
            for place, trial in enumerate(trials)
        ]
        for trial, score in zip(trials, scores, strict=True):
            if math.isfinite(score.cost):
                study.tell(trial, score.cost)
            else:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)


def load_optuna() -> Any:
    """The library, without its log lines."""
    try:
        import optuna
    except ImportError as error:
        raise ImportError(
            "finetune.search.method optuna needs optuna; install the [search] extra or set method: random"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _suggest(trial: Any, space: Space) -> Settings:
    return {key: _suggest_value(trial, key, values) for key, values in space.items()}


def _suggest_value(trial: Any, key: str, values: Any) -> Value:
    if not isinstance(values, Range):
        return trial.suggest_categorical(key, list(values))
    if values.integer:
        return int(trial.suggest_int(key, int(values.low), int(values.high), log=values.log))
    return float(trial.suggest_float(key, values.low, values.high, log=values.log))
