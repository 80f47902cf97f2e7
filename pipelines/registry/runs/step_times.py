"""Where the time of a training went, in its run: a picture, a table, the timelines, MLflow's own monitor."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.finetune.launch.timeline import FOLDER, list_timelines
from pipelines.finetune.times.parts import PARTS, own_seconds, read_reports
from pipelines.storage import Folder

if TYPE_CHECKING:
    from pipelines.finetune.training import Training
    from pipelines.registry.runs.tracker import Tracker


def log_step_times(tracker: "Tracker", training: "Training") -> None:
    """Keep pictures/step_times.png and step_times.csv, and the timelines of Horovod where there are any."""
    from pipelines.time_charts import draw_step_times  # loads matplotlib: only a training that ends needs it

    folder = Folder(training.folder)
    for name in list_timelines(training.folder):
        with folder.local(FOLDER) as place:
            tracker.log_file(place / Path(name).name, FOLDER)
    reports = read_reports(training.folder)
    if not reports:  # an earlier version trained it
        return
    steps = [report["step"] for report in reports]
    seconds: dict[str, list[list[float]]] = {
        part: [report["seconds"][part] for report in reports] for part in PARTS
    }
    tracker.log_picture("step_times", draw_step_times(steps, seconds, reports[-1]["hosts"]))
    lines = [
        "last_step,rank,host,tokens,tokens_per_second_of_own_work,"
        + ",".join(f"{each}_seconds" for each in PARTS)
    ]
    for report in reports:
        for rank, (host, tokens) in enumerate(zip(report["hosts"], report["num_tokens"], strict=True)):
            speed = tokens / max(own_seconds(report, rank), 1e-9)
            parts = ",".join(f"{report['seconds'][each][rank]:.6f}" for each in PARTS)
            lines.append(f"{report['step']},{rank},{host},{tokens:.0f},{speed:.1f},{parts}")
    tracker.log_text("step_times.csv", "\n".join(lines) + "\n")


@contextmanager
def log_system(tracker: "Tracker", training: "Training") -> Iterator[None]:
    """While the context lasts, MLflow's monitor logs what the driver's machine does, if `system_metrics` is
    set. Raises ImportError without psutil."""
    if not training.execution.system_metrics:
        yield
        return
    try:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
    except ImportError as error:
        raise ImportError(
            f"finetune.system_metrics=true needs psutil ({error}); install it, or set "
            "finetune.system_metrics=false"
        ) from error
    monitor = SystemMetricsMonitor(tracker.run_id, resume_logging=True)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()
