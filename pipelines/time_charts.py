"""A chart of where the time of a training went. Loads matplotlib, as `charts` does."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from pipelines.charts import BLUE, GREY, ORANGE, shorten_name

COLOURS = {
    "forward_backward": BLUE,
    "optimizer": "#7fb0e0",
    "communication": ORANGE,
    "data": "#b8433a",
    "evaluation": "#5f9e6e",
    "checkpoint": "#9b77b5",
    "other": GREY,
}
"""Part of the time -> colour, in the order in which they are stacked."""
MOST_RANKS = 24
"""With a bar of their own; of more, those that work longest, whom the others wait for."""
MOST_COLUMNS = 120
"""Of the picture over time; more reports are drawn together."""


def draw_step_times(
    steps: Sequence[int], seconds: Mapping[str, Sequence[Sequence[float]]], hosts: Sequence[str]
) -> Figure:
    """Above one bar for each rank, below the mean of the ranks over the steps, both stacked by part.

    `steps`: (num_reports,) last step of each report; `seconds`: part -> (num_reports, num_ranks); `hosts`: of
    the ranks. In a training that was continued with another number of ranks, bars are of the reports with the
    last number.
    """
    parts = [part for part in COLOURS if part in seconds]
    num_ranks = len(hosts)
    chosen = [number for number, row in enumerate(seconds[parts[0]]) if len(row) == num_ranks]
    by_rank = {
        part: np.array([seconds[part][number] for number in chosen], dtype=float).sum(0) for part in parts
    }  # part -> (num_ranks,)
    over_time = {part: np.array([np.mean(row) for row in seconds[part]]) for part in parts}
    shown = _choose_ranks(by_rank)

    figure = Figure(figsize=(9, 4.6 + 0.26 * len(shown)), dpi=130, layout="constrained")
    bars, course = figure.subplots(2, 1, height_ratios=(1.2 + 0.26 * len(shown), 3))
    _draw_ranks(bars, by_rank, shown, hosts)
    _draw_course(course, np.asarray(steps), over_time)
    whole = sum(float(values.sum()) for values in over_time.values())
    for part in parts:
        share = float(over_time[part].sum()) / max(whole, 1e-9)
        course.bar(0, 0, color=COLOURS[part], label=f"{part.replace('_', ' + ')} {share:.1%}")
    figure.legend(*course.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=4)
    return figure


def _choose_ranks(by_rank: Mapping[str, np.ndarray]) -> list[int]:
    """Ranks in order; of many, those with most time outside of communication."""
    own = np.sum([values for part, values in by_rank.items() if part != "communication"], axis=0)
    return sorted(np.argsort(-own, kind="stable")[:MOST_RANKS].tolist())


def _draw_ranks(
    axes: Axes, by_rank: Mapping[str, np.ndarray], shown: list[int], hosts: Sequence[str]
) -> None:
    places, left = np.arange(len(shown)), np.zeros(len(shown))
    for part, values in by_rank.items():
        axes.barh(places, values[shown], left=left, color=COLOURS[part], height=0.72)
        left += values[shown]
    axes.set_yticks(places, [f"rank {rank} ({shorten_name(hosts[rank])})" for rank in shown], fontsize=8)
    axes.invert_yaxis()
    few = "" if len(shown) == len(hosts) else f", the {len(shown)} of {len(hosts)} ranks that work longest"
    axes.set(xlabel="seconds", title=f"Where the time of the training went{few}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.25)


def _draw_course(axes: Axes, steps: np.ndarray, over_time: Mapping[str, np.ndarray]) -> None:
    """Shares of the time of each report, which is as wide as the steps that it is about."""
    # The last report may be of the step of the one before: what came after that step.
    different = np.unique(steps)
    groups = np.array_split(different, min(len(different), MOST_COLUMNS))
    ends = np.array([group[-1] for group in groups], dtype=float)
    starts = np.concatenate([[0.0], ends[:-1]])
    column = np.searchsorted(ends, steps)  # (num_reports,)
    totals = {part: np.bincount(column, values, len(ends)) for part, values in over_time.items()}
    whole, bottom = np.maximum(np.sum(list(totals.values()), axis=0), 1e-9), np.zeros(len(groups))
    for part, values in totals.items():
        share = values / whole
        axes.bar(starts, share, ends - starts, bottom, color=COLOURS[part], align="edge")
        bottom += share
    axes.set(xlabel="step", ylabel="share of the time", ylim=(0, 1))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0)
