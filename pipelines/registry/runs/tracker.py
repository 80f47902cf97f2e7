"""One training = one MLflow run: found by the fingerprint of what it is made from, continued after a crash,
never doubled.

Only the driver uses this. Workers write their metrics to an event log on shared storage; the driver passes
them on.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Metric, Param, Run
from mlflow.exceptions import MlflowException

from pipelines.lease import LeaseLostError
from pipelines.registry import store
from pipelines.registry.runs.current import FOLDER_TAG
from pipelines.registry.runs.environment import describe_driver, read_git_tags
from pipelines.registry.runs.lineage import record_input, write_lineage
from pipelines.registry.runs.params import flatten_params, format_param

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from pipelines.pin import Pin

logger = logging.getLogger(__name__)

FINGERPRINT_TAG, ERROR_TAG = "distributary.fingerprint", "distributary.error"
RESUMED_TAG = "distributary.resumed"
"""Tag of a continued run: how many times it was continued; with .NAME, the changed value of a param."""
MAX_TAG_CHARS = 5000
MAX_METRICS, MAX_PARAMS = 1000, 100
"""MLflow's limits per request."""
FLUSH_SECONDS = 2.0
"""A metric reaches the store at most this late. One request per step would cost one transaction per step."""


def find_run(experiment: str, fingerprint: str) -> Run | None:
    """The newest run with this fingerprint, of any status; None if there is none."""
    if not fingerprint.isalnum():
        raise ValueError(f"a fingerprint has only letters and digits, got '{fingerprint}'")
    existing = store.find_experiment(experiment)
    if existing is None:
        return None
    runs = MlflowClient().search_runs(
        [existing.experiment_id],
        f"tags.`{FINGERPRINT_TAG}` = '{fingerprint}'",
        max_results=1,
        order_by=["attributes.start_time DESC"],
    )
    return runs[0] if runs else None


def read_run_status(run_id: str) -> str:
    """MLflow's status, "deleted" for a deleted run, "unknown" if MLflow has no such run."""
    try:
        run = MlflowClient().get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return "unknown"
    return "deleted" if run.info.lifecycle_stage == LifecycleStage.DELETED else str(run.info.status)


@contextmanager
def open_run(
    experiment: str,
    fingerprint: str,
    *,
    folder: str,
    params: Mapping[str, Any],
    config: str,
    inputs: Iterable["Pin"],
    hide: Callable[[str], str] = str,
) -> Iterator["Tracker"]:
    """Start or continue the run of a training, record what it is made from, and end it with the context.

    `folder` has the training's checkpoints and result; `params` and `config` (YAML text) must be free of
    secrets; `inputs` are the table versions that the training reads. An error in the context makes the run
    failed and is kept in it, as `hide` returns it.
    """
    with Tracker(experiment, fingerprint, tags={FOLDER_TAG: folder}, hide=hide) as tracker:
        tracker.log_params(params)
        tracker.log_config(config)
        tracker.log_environment()
        tracker.log_inputs(inputs)
        yield tracker


class Tracker:
    """The run of one fingerprint: continues an unfinished run with this fingerprint, else starts a new one.

    As a context manager it ends the run: finished, or failed with the error (killed, for an interrupt).
    """

    def __init__(
        self,
        experiment: str,
        fingerprint: str,
        *,
        name: str | None = None,
        tags: Mapping[str, str] | None = None,
        hide: Callable[[str], str] = str,
    ) -> None:
        """`hide` removes secrets from the text of an error before the run keeps it."""
        store.require_connection()
        self._client, self._hide = MlflowClient(), hide
        self._buffer: list[Metric] = []
        self._flushed_at = time.monotonic()
        earlier = find_run(experiment, fingerprint)
        if earlier is not None and earlier.info.status != "FINISHED":
            self.run_id = str(earlier.info.run_id)
            self._client.update_run(self.run_id, status="RUNNING")
            self._client.set_tag(
                self.run_id, RESUMED_TAG, str(int(earlier.data.tags.get(RESUMED_TAG, 0)) + 1)
            )
            self._logged = {key: set(self.read_history(key)) for key in earlier.data.metrics}
            logger.info("continuing run %s (was %s)", self.run_id, earlier.info.status)
        else:
            given = {
                FINGERPRINT_TAG: fingerprint,
                "mlflow.source.name": "distributary",
                **read_git_tags(),
                **(tags or {}),
            }
            run = self._client.create_run(store.ensure_experiment(experiment), run_name=name, tags=given)
            self.run_id, self._logged = str(run.info.run_id), {}

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add one point per metric, written within FLUSH_SECONDS.

        A step that the metric already has is skipped.
        """
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
                # The training continues without its tracking server: points stay in the buffer, and finish()
                # must write them.
                logger.warning(
                    "run %s: metrics not written yet (%s)", self.run_id, str(error).partition("\n")[0]
                )
                self._flushed_at = time.monotonic()

    def flush(self) -> None:
        """Write the buffered points. They stay in the buffer if the store cannot be reached."""
        while self._buffer:
            self._client.log_batch(self.run_id, metrics=self._buffer[:MAX_METRICS])
            del self._buffer[:MAX_METRICS]
        self._flushed_at = time.monotonic()

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Add params; nested mappings become dotted names. A long value is cut with a note; config.yaml has
        it whole.

        MLflow does not allow a param to change: if a continued run has a new value, it goes to the tag
        `distributary.resumed.NAME`, with a warning.
        """
        present = self._client.get_run(self.run_id).data.params
        wanted = {name: format_param(value) for name, value in flatten_params(params)}
        changed = {name: value for name, value in wanted.items() if present.get(name, value) != value}
        for name, value in changed.items():
            logger.warning("run %s: %s was '%s', now it is '%s'", self.run_id, name, present[name], value)
        new = [Param(name, value) for name, value in wanted.items() if name not in present]
        for start in range(0, len(new), MAX_PARAMS):
            self._client.log_batch(self.run_id, params=new[start : start + MAX_PARAMS])
        for name, value in changed.items():
            self._client.set_tag(self.run_id, f"{RESUMED_TAG}.{name}", value[:MAX_TAG_CHARS])

    def log_config(self, text: str) -> None:
        """Keep the whole configuration as config.yaml. The caller removes secrets before."""
        self._client.log_text(self.run_id, text, "config.yaml")

    def log_text(self, name: str, text: str) -> None:
        """Keep a text as the artifact `name`."""
        self._client.log_text(self.run_id, text, name)

    def log_file(self, file: Path, folder: str) -> None:
        """Keep a file as the artifact FOLDER/NAME."""
        self._client.log_artifact(self.run_id, str(file), folder)

    def log_inputs(self, pins: Iterable["Pin"], *, context: str = "training") -> None:
        """Record the table versions that the run reads, with our digests, and write lineage.json."""
        self._client.log_inputs(self.run_id, datasets=[record_input(pin, context) for pin in pins])
        write_lineage(self.run_id)

    def log_environment(self) -> None:
        """Keep the driver's Python, machine and important packages (environment.json) and all packages
        (requirements.txt)."""
        driver, requirements = describe_driver()
        self._client.log_dict(self.run_id, {"driver": driver}, "environment.json")
        self._client.log_text(self.run_id, requirements, "requirements.txt")

    def log_picture(self, name: str, figure: "Figure") -> None:
        """Keep a figure as pictures/NAME.png."""
        self._client.log_figure(self.run_id, figure, f"pictures/{name}.png")

    def log_loss_curve(self, *, train: str, evaluation: str, learning_rate: str, title: str) -> None:
        """Draw the whole training from the points in the run, with those of earlier attempts."""
        from pipelines.charts import draw_loss_curve  # loads matplotlib: only a training that ends needs it

        self.flush()
        figure = draw_loss_curve(
            self.read_history(train),
            self.read_history(evaluation),
            self.read_history(learning_rate),
            title=title,
        )
        self.log_picture("loss", figure)

    def log_confusion(self, counts: "np.ndarray", labels: list[str], *, title: str) -> None:
        """Keep the confusion matrix (row = expected class) as pictures/confusion.png and confusion.txt with
        whole names."""
        from pipelines.charts import draw_confusion, find_font, format_confusion  # loads matplotlib, as above

        if find_font(labels) is None:
            logger.warning(
                "no installed font has all characters of the %d class names; the chart shows class numbers, "
                "pictures/confusion.txt lists the names",
                len(labels),
            )
        self.log_picture("confusion", draw_confusion(counts, labels, title=title))
        self._client.log_text(self.run_id, format_confusion(counts, labels), "pictures/confusion.txt")

    def finish(self, metrics: Mapping[str, float] | None = None) -> None:
        """Add the final metrics at the last step and set the run's status to FINISHED."""
        self.log(max((step for steps in self._logged.values() for step in steps), default=0), metrics or {})
        self._end("FINISHED")

    def fail(self, error: str, *, status: str = "FAILED") -> None:
        """Keep the error without secrets (cut in a tag, whole in error.txt) and set the status.

        The next Tracker with the fingerprint continues.
        """
        error = self._hide(error)
        self._client.set_tag(self.run_id, ERROR_TAG, error[:MAX_TAG_CHARS])
        self._client.log_text(self.run_id, error, "error.txt")
        self._end(status)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, LeaseLostError):
            # The run belongs to another driver now: what this one has not written, that one has.
            self._buffer.clear()
        elif error is not None:
            try:
                status = "FAILED" if isinstance(error, Exception) else "KILLED"
                self.fail(f"{type(error).__name__}: {error}", status=status)
            except Exception as fault:
                # The training's own error matters more than any fault of the store.
                logger.error(
                    "run %s: its error could not be recorded (%s)", self.run_id, str(fault).partition("\n")[0]
                )
        elif self._client.get_run(self.run_id).info.status == "RUNNING":
            self.finish()

    def _end(self, status: str) -> None:
        self.flush()
        if status == "FINISHED" and ERROR_TAG in self._client.get_run(self.run_id).data.tags:
            # The run failed before, was continued, and has now finished.
            self._client.delete_tag(self.run_id, ERROR_TAG)
        self._client.set_terminated(self.run_id, status=status)

    def read_history(self, key: str) -> dict[int, float]:
        """Step -> value of the points that the run has of a metric."""
        return {point.step: point.value for point in self._client.get_metric_history(self.run_id, key)}
