"""`distributary search`: from the configuration to trials, and from their scores to the best settings."""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from jobs.finetune import Config
from jobs.shell.display import console
from jobs.shell.layers import OPEN, suggest_name
from jobs.shell.plan import require_unmodified_table
from jobs.shell.redaction import redact
from jobs.shell.settings import Settings
from pipelines.finetune.search.rules import PLACES, Space
from pipelines.finetune.search.rules import Settings as Values

if TYPE_CHECKING:
    from pipelines.finetune.search.score import Candidate, Score
    from pipelines.finetune.search.trial import Trial
    from pipelines.finetune.training import Fold
    from pipelines.pin import Pin

SEARCH_REVISION = 1
"""Raise it when equal settings propose other candidates, or choose another one, than before."""
MAX_ERROR = 100
"""Characters of an error in the table; the run of the trial has all."""


def change_settings(settings: Settings, changes: Mapping[str, Any]) -> Config:
    """The section finetune with other values; keys are those below finetune, with dots.

    Raises ValueError for a key that finetune does not have, and for a value that its rules refuse.
    """
    tree = deepcopy(settings.tree)
    for key, value in changes.items():
        *parents, name = key.split(".")
        node: Any = tree["finetune"]
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        place = ".".join(["finetune", *parents])
        if not isinstance(node, dict) or (name not in node and place not in OPEN):
            known = [each for each in list_keys(tree["finetune"]) if each.partition(".")[0] not in PLACES]
            raise ValueError(
                f"configuration: finetune.search.space names {key}, which is no key below finetune"
                f"{suggest_name(key, known)}"
            )
        node[name] = value
    return replace(settings, tree=tree).section("finetune", Config)


def list_keys(node: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The dotted names of all values below a section."""
    keys: list[str] = []
    for name, value in node.items():
        inner = isinstance(value, dict) and value
        keys += list_keys(value, f"{prefix}{name}.") if inner else [f"{prefix}{name}"]
    return keys


def find_search_folder(config: Config, fingerprint: str) -> str:
    """Where the result of a search is."""
    from pipelines.storage import Folder

    return (Folder(config.searches) / fingerprint).path


@dataclass(frozen=True)
class Search:
    """A search that a configuration means, on pinned sequences."""

    settings: Settings
    config: Config
    sequences: "Pin"

    @classmethod
    def of(cls, settings: Settings) -> "Search":
        """Raises FileNotFoundError if there are no sequences yet."""
        config = settings.section("finetune", Config)
        return cls(settings, config, require_unmodified_table(config.sequences, "sequences", "dataset"))

    @property
    def space(self) -> Space:
        return self.config.search.list_space(self.config.optimization.learning_rate)

    @cached_property
    def fingerprint(self) -> str:
        """Of everything that the candidates and their values depend on."""
        from pipelines.finetune.search.score import Candidate
        from pipelines.pin import fingerprint

        rules = self.config.search
        base = self.make_trials(Candidate(number=0, settings={}), folds=False)[0].id
        space = {key: repr(values) for key, values in self.space.items()}
        return fingerprint("search", SEARCH_REVISION, rules.identity(), space, base)

    @property
    def folder(self) -> str:
        return find_search_folder(self.config, self.fingerprint)

    def make_trials(self, candidate: "Candidate", *, folds: bool = True) -> "list[Trial]":
        """The trials of a candidate: one, or one for each fold."""
        from pipelines.finetune.plan import make_training
        from pipelines.finetune.search.trial import make_trial

        config = change_settings(self.settings, self._list_changes(candidate))
        training = make_training(config, self.sequences)
        parts = self.list_folds() if folds else [None]
        return [make_trial(training, candidate, fold, self.config.searches) for fold in parts]

    def _list_changes(self, candidate: "Candidate") -> dict[str, Any]:
        epochs = float(candidate.settings.get("num_epochs") or self.config.num_epochs)
        return {
            **candidate.settings,
            "num_epochs": epochs * candidate.epochs_fraction,
            # A trial is one rank, and never reads the final split.
            "num_ranks": 1,
            "strategy": "auto",
            "final_split": self.config.evaluation_split,
        }

    def list_folds(self) -> "list[Fold | None]":
        """The folds, or None alone for a search without folds."""
        from pipelines.finetune.training import Fold
        from pipelines.pin import fingerprint
        from pipelines.storage import Folder

        num_folds, seed = self.config.search.num_folds, self.config.search.seed
        if num_folds is None:
            return [None]
        name = fingerprint("folds", self.sequences.identity(), num_folds, seed)
        file = (Folder(self.config.searches) / f"folds/{name}.npy").path
        return [Fold(number=number, num_folds=num_folds, seed=seed, file=file) for number in range(num_folds)]

    def write_folds(self) -> None:
        """The file that trials of folds read, if it is not there yet."""
        from pipelines.catalog import find_location
        from pipelines.dataset.folds import assign_folds, write_folds
        from pipelines.storage import Folder

        fold = self.list_folds()[0]
        if fold is None:
            return
        folder, _, name = fold.file.rpartition("/")
        if not Folder(folder).exists(name):
            folds = assign_folds(
                find_location(self.sequences.path),
                table_id=self.sequences.table_id,
                version=self.sequences.version,
                num_folds=fold.num_folds,
                seed=fold.seed,
            )
            write_folds(Folder(folder), name, folds)


def format_overrides(settings: Values) -> list[str]:
    """The settings as KEY=VALUE of a command line."""
    import yaml

    def write(value: Any) -> str:
        # Text that YAML would read as something else is quoted, as "3".
        try:
            is_plain = isinstance(value, str) and yaml.safe_load(value) == value
        except yaml.YAMLError:  # such as @name or *, which begin something else in YAML
            is_plain = False
        return value if is_plain else json.dumps(value)

    return [f"finetune.{key}={write(value)}" for key, value in settings.items()]


def format_yaml(settings: Values) -> str:
    """The settings as a file for --config."""
    import yaml

    tree: dict[str, Any] = {}
    for key, value in settings.items():
        node = tree
        *parents, name = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return yaml.safe_dump({"finetune": tree}, sort_keys=True, allow_unicode=True)


def describe_candidates(search: Search) -> dict[str, str]:
    """The first round of candidates, for a dry run. All of them pass the checks of the configuration."""
    from pipelines.finetune.search.candidates import PROPOSERS, describe_lack, plan_rounds

    rules = search.config.search
    first = next(PROPOSERS[rules.method](rules, search.space))
    notes = {}
    for candidate in first:
        search.make_trials(candidate, folds=False)
        notes[f"trial {candidate.number}"] = ", ".join(
            f"{key}={value}" for key, value in candidate.settings.items()
        )
    lack = describe_lack(rules, len(first))
    if lack is not None:
        notes["fewer trials"] = lack
    if rules.method == "halving":
        planned = plan_rounds(rules, len(first))
        rounds = (f"{size} x {share * search.config.num_epochs:.3g}" for size, share in planned)
        notes["rounds"] = f"trials x epochs: {', '.join(rounds)}"
    if rules.method == "optuna" and len(first) < rules.num_trials:
        notes["more"] = f"{rules.num_trials - len(first)} trials, chosen by the values of those before"
    if rules.num_folds is not None:
        notes["folds"] = f"{rules.num_folds} trainings for each trial, each measured on the fold left out"
    return notes


def display_scores(scores: "Sequence[Score]", best: "Score") -> None:
    """A table with a line for each candidate and round, in the order in which they were tried."""
    keys = list(dict.fromkeys(key for score in scores for key in score.candidate.settings))
    table = Table("trial", "round", *keys, best.metric, "", title="Search", title_justify="left")
    for score in scores:
        value = "failed" if score.error else f"{score.value:.4f}"
        value += f" ± {score.spread:.4f}" if score.spread else ""
        note = "best" if score is best else (score.error or "").partition("\n")[0][:MAX_ERROR]
        settings = [str(score.candidate.settings.get(key)) for key in keys]
        cells = [str(score.candidate.number), str(score.candidate.rung + 1), *settings, value, redact(note)]
        table.add_row(*map(Text, cells), style="bold" if score is best else None)
    console.print(table)
