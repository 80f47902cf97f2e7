"""One training = one MLflow run: found again by the fingerprint of what it was made from, continued after a crash, never doubled.

Only the driver calls this: workers write their metrics to an event log on shared storage, the driver passes them on here.
"""

import logging
import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pipelines import charts as pictures
from pipelines.registry import store

# isort: split
import numpy as np
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run
from mlflow.exceptions import MlflowException

from pipelines.registry.runs.environment import describe_driver, git_tags
from pipelines.registry.runs.lineage import dataset_input, write_lineage

if TYPE_CHECKING:
    from pipelines.pin import Pin

logger = logging.getLogger(__name__)

FINGERPRINT_TAG, ERROR_TAG, RESUMED_TAG = (
    "distributary.fingerprint",
    "distributary.error",
    "distributary.resumed",
)
MAX_PARAM_CHARS = 6000
"""MLflow's limit on the value of a param."""
MAX_TAG_CHARS = 5000
MAX_METRICS, MAX_PARAMS = 1000, 100
"""MLflow's limits on one call."""
FLUSH_SECONDS = 2.0
"""A metric is at most this late in the store; one call a step would cost a transaction each."""


def find_run(experiment: str, fingerprint: str) -> Run | None:
    """The newest run of this fingerprint, whatever its status; None if there is none."""
    if not fingerprint.isalnum():
        raise ValueError(f"a fingerprint is letters and digits, got '{fingerprint}'")
    found = store.find_experiment(experiment)
    if found is None:
        return None
    runs = MlflowClient().search_runs(
        [found.experiment_id],
        f"tags.`{FINGERPRINT_TAG}` = '{fingerprint}'",
        max_results=1,
        order_by=["attributes.start_time DESC"],
    )
    return runs[0] if runs else None


class Tracker:
    """The run of one fingerprint: a run of it that did not finish is continued, else a new one starts.

    As a context manager it ends the run: finished, or failed (killed, for an interrupt) with the error that passed through.
    """

    def __init__(
        self,
        experiment: str,
        fingerprint: str,
        *,
        name: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self._client = MlflowClient()
        self._buffer: list[Metric] = []
        self._flushed_at = time.monotonic()
        earlier = find_run(experiment, fingerprint)
        if earlier is not None and earlier.info.status != "FINISHED":
            self.run_id = str(earlier.info.run_id)
            self._client.update_run(self.run_id, status="RUNNING")
            self._client.set_tag(
                self.run_id, RESUMED_TAG, str(int(earlier.data.tags.get(RESUMED_TAG, 0)) + 1)
            )
            self._logged = {key: set(self._history(key)) for key in earlier.data.metrics}
            logger.info("continuing run %s (was %s)", self.run_id, earlier.info.status)
        else:
            given = {
                FINGERPRINT_TAG: fingerprint,
                "mlflow.source.name": "distributary",
                **git_tags(),
                **(tags or {}),
            }
            run = self._client.create_run(store.experiment_id(experiment), run_name=name, tags=given)
            self.run_id, self._logged = str(run.info.run_id), {}

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add one point a metric; a point whose step is already in the run is skipped. Written within FLUSH_SECONDS."""
        now = int(time.time() * 1000)
        for key, value in metrics.items():
            steps = self._logged.setdefault(key, set())
            if step not in steps:
                steps.add(step)
                self._buffer.append(Metric(key, float(value), now, step))
        if len(self._buffer) >= MAX_METRICS or time.monotonic() - self._flushed_at > FLUSH_SECONDS:
            try:
                self.flush()
            except MlflowException as error:
                # A training outlives its tracking server: the points stay in the buffer, finish() must write them.
                logger.warning(
                    "run %s: metrics not written yet (%s)", self.run_id, str(error).partition("\n")[0]
                )
                self._flushed_at = time.monotonic()

    def flush(self) -> None:
        """Write what is buffered; kept for the next try if the store cannot be reached."""
        while self._buffer:
            self._client.log_batch(self.run_id, metrics=self._buffer[:MAX_METRICS])
            del self._buffer[:MAX_METRICS]
        self._flushed_at = time.monotonic()

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Add params; nested mappings become dotted names. A value too long is cut with a note, the config artifact has it whole.

        A param of a continued run can't change in MLflow: a new value goes to tag `distributary.resumed.NAME`, with a warning.
        """
        present = self._client.get_run(self.run_id).data.params
        wanted = {name: _fitting(value) for name, value in _flat(params)}
        changed = {name: value for name, value in wanted.items() if present.get(name, value) != value}
        for name, value in changed.items():
            logger.warning(
                "run %s: %s was '%s', continues with '%s'", self.run_id, name, present[name], value
            )
        new = [Param(name, value) for name, value in wanted.items() if name not in present]
        for start in range(0, len(new), MAX_PARAMS):
            self._client.log_batch(self.run_id, params=new[start : start + MAX_PARAMS])
        for name, value in changed.items():
            self._client.set_tag(self.run_id, f"{RESUMED_TAG}.{name}", value[:MAX_TAG_CHARS])

    def log_config(self, text: str) -> None:
        """Keep the whole configuration as config.yaml. The caller has redacted secrets."""
        self._client.log_text(self.run_id, text, "config.yaml")

    def log_text(self, name: str, text: str) -> None:
        """Keep a text as the artifact `name`."""
        self._client.log_text(self.run_id, text, name)

    def log_inputs(self, pins: Iterable["Pin"], *, context: str = "training") -> None:
        """Name the table versions that the run reads, with our digests, and write lineage.json."""
        self._client.log_inputs(self.run_id, datasets=[dataset_input(pin, context) for pin in pins])
        write_lineage(self.run_id)

    def log_environment(self) -> None:
        """Keep what the driver ran on: Python, machine, versions of packages that matter; all packages as requirements.txt."""
        driver, requirements = describe_driver()
        self._client.log_dict(self.run_id, {"driver": driver}, "environment.json")
        self._client.log_text(self.run_id, requirements, "requirements.txt")

    def log_picture(self, name: str, figure: Figure) -> None:
        """Keep a figure as pictures/NAME.png."""
        self._client.log_figure(self.run_id, figure, f"pictures/{name}.png")

    def log_loss_curve(self, *, train: str, evaluation: str, learning_rate: str, title: str) -> None:
        """Draw the whole training from the points in the run, those of earlier attempts included."""
        self.flush()
        figure = pictures.loss_curve(
            self._history(train), self._history(evaluation), self._history(learning_rate), title=title
        )
        self.log_picture("loss", figure)

    def log_confusion(self, counts: np.ndarray, labels: list[str], *, title: str) -> None:
        """Keep the confusion matrix (row = expected class) as pictures/confusion.png and, with names in full, as text."""
        if pictures.font_for(labels) is None:
            logger.warning(
                "no installed font draws all %d class names; the picture shows class numbers, "
                "pictures/confusion.txt the names",
                len(labels),
            )
        self.log_picture("confusion", pictures.confusion(counts, labels, title=title))
        self._client.log_text(self.run_id, pictures.confusion_text(counts, labels), "pictures/confusion.txt")

    def finish(self, metrics: Mapping[str, float] | None = None) -> None:
        """Add the final metrics at the last step and set the run's status to FINISHED."""
        self.log(max((step for steps in self._logged.values() for step in steps), default=0), metrics or {})
        self._end("FINISHED")

    def fail(self, error: str, *, status: str = "FAILED") -> None:
        """Keep the error (tag, cut; whole as error.txt) and set the run's status; the fingerprint's next Tracker continues it."""
        self._client.set_tag(self.run_id, ERROR_TAG, error[:MAX_TAG_CHARS])
        self._client.log_text(self.run_id, error, "error.txt")
        self._end(status)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            try:
                self.fail(
                    f"{type(error).__name__}: {error}",
                    status="FAILED" if isinstance(error, Exception) else "KILLED",
                )
            except Exception as fault:
                # Whatever the store's fault is, the training's own error is the one to tell.
                logger.error(
                    "run %s: its error could not be recorded (%s)", self.run_id, str(fault).partition("\n")[0]
                )
        elif self._client.get_run(self.run_id).info.status == "RUNNING":
            self.finish()

    def _end(self, status: str) -> None:
        self.flush()
        if status == "FINISHED" and ERROR_TAG in self._client.get_run(self.run_id).data.tags:
            # Continued after a failure, and ended well after all.
            self._client.delete_tag(self.run_id, ERROR_TAG)
        self._client.set_terminated(self.run_id, status=status)

    def _history(self, key: str) -> dict[int, float]:
        return {point.step: point.value for point in self._client.get_metric_history(self.run_id, key)}


def _flat(params: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in params.items():
        flat += (
            _flat(value, f"{prefix}{name}.")
            if isinstance(value, Mapping) and value
            else [(f"{prefix}{name}", value)]
        )
    return flat


def _fitting(value: Any) -> str:
    text = str(value)
    note = f"... ({len(text):,} characters, whole in config.yaml)"
    return text if len(text) <= MAX_PARAM_CHARS else text[: MAX_PARAM_CHARS - len(note)] + note
