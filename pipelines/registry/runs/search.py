"""The MLflow runs of a search: one parent, and a child for each trial.

Both are found by fingerprint, as the run of a training is: a search that was killed continues its runs, and
adds nothing to a child that has ended.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from mlflow import MlflowClient

from pipelines.finetune.driver import Listeners
from pipelines.finetune.results import read_result
from pipelines.finetune.search.score import Score
from pipelines.finetune.search.trial import Trial, read_failure
from pipelines.lease import Lease
from pipelines.pin import Pin, fingerprint
from pipelines.registry.runs.current import FOLDER_TAG
from pipelines.registry.runs.tracker import Tracker, find_run
from pipelines.registry.runs.training import Description
from pipelines.storage import Folder

PARENT_TAG, TRIAL_TAG, SEARCH_TAG = "mlflow.parentRunId", "distributary.trial", "distributary.search"
RESULT, BEST = "result.json", "best.yaml"
"""In the folder of a search: all scores; the best settings, as a file for --config."""


def read_search(folder: str) -> dict[str, Any] | None:
    """The result of a finished search; None if it is not finished."""
    found = Folder(folder)
    return json.loads(found.read(RESULT)) if found.exists(RESULT) else None


@dataclass
class SearchRecord:
    """The runs of a search while it goes on. Trials may call it from several threads: MLflow gets one request
    at a time."""

    fingerprint: str
    folder: str
    """Of the search."""
    experiment: str
    tracker: Tracker
    lease: Lease
    description: Description
    show: Callable[[str], None]
    """What a trial is doing now."""
    _lock: Lock = field(default_factory=Lock)

    @contextmanager
    def trial(self, trial: Trial) -> Iterator[Listeners | None]:
        """The child run of a trial, started or continued; concluded when the context ends well, else failed
        with the error. None if it has ended: nothing is added to it."""
        made_from = fingerprint("child", self.fingerprint, trial.id)
        with self._lock:
            tracker = None if self._has_ended(trial, made_from) else self._open(trial, made_from)
        if tracker is None:
            yield None
            return
        try:
            yield Listeners(
                log=lambda step, metrics: self._log(tracker, step, metrics),
                show_progress=lambda text: self.show(f"{trial.name}: {text}"),
                show_line=lambda text: self.show(f"{trial.name}: {text}"),
                require_lease=self.lease.require,
            )
        except BaseException as error:
            with self._lock:
                tracker.__exit__(type(error), error, error.__traceback__)
            raise
        result = read_result(trial.training.folder)
        assert result is not None, "rank 0 writes the result before the launch returns"
        with self._lock:
            tracker.finish({f"final/{name}": value for name, value in result["after"].items()})

    def _has_ended(self, trial: Trial, made_from: str) -> bool:
        run = find_run(self.experiment, made_from)
        if run is None:
            return False
        if run.data.tags.get(PARENT_TAG) != self.tracker.run_id:
            # The search had ended, and is run again with --retry-failed: its new run takes the children over.
            MlflowClient().set_tag(run.info.run_id, PARENT_TAG, self.tracker.run_id)
        if run.info.status == "FINISHED":
            return read_result(trial.training.folder) is not None
        return run.info.status == "FAILED" and read_failure(trial) is not None

    def _open(self, trial: Trial, made_from: str) -> Tracker:
        tags = {PARENT_TAG: self.tracker.run_id, TRIAL_TAG: trial.id, FOLDER_TAG: trial.training.folder}
        tracker = Tracker(self.experiment, made_from, name=trial.name, tags=tags, hide=self.description.hide)
        tracker.log_params({**trial.training.settings(), "trial": trial.candidate.number, "num_ranks": 1})
        return tracker

    def _log(self, tracker: Tracker, step: int, metrics: Mapping[str, float]) -> None:
        with self._lock:
            tracker.log(step, metrics)

    def conclude(self, scores: Sequence[Score], best: Score, overrides: Sequence[str], config: str) -> None:
        """Keep scores, picture and the best settings, in the run and in the folder of the search.
        `config`: the best settings as YAML."""
        from pipelines.search_charts import Point, draw_search  # loads matplotlib

        self.lease.require()
        points = [
            Point(
                number=score.candidate.number,
                rung=score.candidate.rung,
                settings=score.candidate.settings,
                value=score.value,
                spread=score.spread,
                is_best=score is best,
            )
            for score in scores
        ]
        num_trials = len({score.candidate.number for score in scores})
        title = f"{num_trials} trials: best {best.metric} {best.value:.4f} (trial {best.candidate.number})"
        self.tracker.log_picture("search", draw_search(points, metric=best.metric, title=title))
        self.tracker.log_text("trials.csv", format_csv(scores))
        self.tracker.log_text(BEST, config)
        for step, score in enumerate(scores):
            if not score.error:
                self.tracker.log(step, {f"search/{score.metric}": score.value})
        result = {
            "metric": best.metric,
            "value": best.value,
            "best_trial": best.candidate.number,
            "best": best.candidate.settings,
            "overrides": list(overrides),
            "run_id": self.tracker.run_id,
            "trials": [describe_score(score) for score in scores],
        }
        self.tracker.log_text(RESULT, json.dumps(result, indent=2))
        folder = Folder(self.folder)
        folder.write(BEST, config.encode())
        # Finished when both are there: killed in between, a search continues its run and concludes again.
        folder.write(RESULT, json.dumps(result).encode())
        self.tracker.finish({f"best/{best.metric}": best.value})


@contextmanager
def record_search(
    made_from: str,
    folder: str,
    searches: str,
    experiment: str,
    inputs: Sequence[Pin],
    description: Description,
    show: Callable[[str], None],
) -> Iterator[SearchRecord]:
    """The runs of a search, started or continued; an error in the context makes the parent failed.

    Holds the lease of `searches`: one search at a time writes to trials there.
    """
    with Lease(Folder(searches)) as lease:
        tags = {FOLDER_TAG: folder, SEARCH_TAG: made_from}
        with Tracker(experiment, made_from, name="search", tags=tags, hide=description.hide) as tracker:
            tracker.log_params(description.params)
            tracker.log_config(description.config)
            tracker.log_environment()
            tracker.log_inputs(inputs)
            yield SearchRecord(made_from, folder, experiment, tracker, lease, description, show)


def describe_score(score: Score) -> dict[str, Any]:
    """A candidate as plain values; no number stands for a failed one."""
    failed = score.error is not None
    return {
        "trial": score.candidate.number,
        "round": score.candidate.rung + 1,
        "epochs_fraction": score.candidate.epochs_fraction,
        "settings": score.candidate.settings,
        "value": None if failed else score.value,
        "spread": None if failed else score.spread,
        "values": list(score.values),
        "error": score.error,
        "lost": score.is_lost,
    }


def format_csv(scores: Sequence[Score]) -> str:
    """One line per candidate and round."""
    keys = list(dict.fromkeys(key for score in scores for key in score.candidate.settings))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "round", *keys, "value", "spread", "error"])
    for score in scores:
        row = describe_score(score)
        error = (score.error or "").partition("\n")[0]
        values = [score.candidate.settings.get(key) for key in keys]
        writer.writerow([row["trial"], row["round"], *values, row["value"], row["spread"], error])
    return text.getvalue()
