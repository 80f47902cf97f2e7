"""The picture of a search: what stands where."""

import math

from pipelines.charts import ORANGE
from pipelines.search_charts import Point, draw_search


def point(number, value, *, rung=0, best=False, spread=0.0, **settings):
    return Point(number=number, rung=rung, settings=settings, value=value, spread=spread, is_best=best)


POINTS = [
    point(0, 0.5, rate=1e-5, schedule="cosine", layers=1),
    point(1, math.nan, rate=1e-3, schedule="linear", layers=2),
    point(2, 0.75, rate=1e-4, schedule="linear", layers=3, spread=0.1, best=True),
]


def test_a_search_shows_its_trials_and_each_parameter():
    figure = draw_search(POINTS, metric="accuracy", title="3 trials")
    top, *others = figure.axes
    assert (top.get_title(), top.get_xlabel(), top.get_ylabel()) == ("3 trials", "trial", "accuracy")
    assert [axes.get_xlabel() for axes in others] == ["rate", "schedule", "layers"]
    assert [axes.get_xscale() for axes in others] == ["log", "linear", "linear"]
    assert [label.get_text() for label in others[1].get_xticklabels()] == ["cosine", "linear"]
    for axes in figure.axes:
        assert [line.get_marker() for line in axes.lines if line.get_marker() == "x"] == ["x"]
        best = [line for line in axes.lines if line.get_color() == ORANGE and line.get_marker() == "o"]
        assert [line.get_ydata().tolist() for line in best] == [[0.75]]


def test_a_failed_trial_stands_at_the_bottom_whatever_the_values():
    axes = draw_search(POINTS, metric="accuracy", title="").axes[0]
    (cross,) = [line for line in axes.lines if line.get_marker() == "x"]
    assert cross.get_transform().transform((1, 0.04))[1] < axes.transData.transform((0, 0.5))[1]
