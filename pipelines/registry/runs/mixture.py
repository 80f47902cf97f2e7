"""The realised mixture of a run beside its plan: a picture and a table."""

from typing import TYPE_CHECKING

from pipelines.finetune.driver import MIXTURE_METRIC

if TYPE_CHECKING:
    from pipelines.dataset.mixing.plan import MixturePlan
    from pipelines.registry.runs.tracker import Tracker


def log_mixture(tracker: "Tracker", plan: "MixturePlan") -> None:
    """Keep pictures/mixture.png and mixture.csv: per thousand steps, the share of the tokens that came from
    each source, beside the planned one. The points must be in the run."""
    from pipelines.charts import draw_mixture  # loads matplotlib: only a training that ends needs it

    tracker.flush()
    planned = {each.source: each.share for each in plan.sources}
    realised = {source: tracker.read_history(f"{MIXTURE_METRIC}/{source}") for source in planned}
    tracker.log_picture("mixture", draw_mixture(realised, planned))
    lines = ["last_step,source,planned_share,realised_share"]
    lines += [
        f"{step},{source},{share:.6f},{realised[source][step]:.6f}"
        for step in sorted({step for points in realised.values() for step in points})
        for source, share in planned.items()
    ]
    tracker.log_text("mixture.csv", "\n".join(lines) + "\n")
