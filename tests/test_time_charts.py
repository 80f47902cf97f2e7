"""The picture of step times, checked by its texts and the sizes of its bars."""

import numpy as np
import pytest

from pipelines import time_charts
from pipelines.finetune.times.parts import PARTS
from pipelines.time_charts import COLOURS, draw_step_times


def seconds(rows):
    """Part -> (num_reports, num_ranks); `rows` for data and forward and backward, 0 for the others."""
    num_reports, num_ranks = len(rows["data"]), len(rows["data"][0])
    return {part: rows.get(part, [[0.0] * num_ranks] * num_reports) for part in PARTS}


def texts(axes):
    return [tick.get_text() for tick in axes.get_yticklabels()]


def test_every_part_has_a_colour():
    assert {*COLOURS} == {*PARTS}


def test_a_slow_rank_is_seen():
    rows = {
        "forward_backward": [[2.0, 9.0], [2.0, 9.0]],
        "communication": [[7.0, 0.0], [7.0, 0.0]],
        "data": [[1.0, 1.0], [1.0, 1.0]],
    }
    bars, course = draw_step_times([10, 20], seconds(rows), ["node1", "node2"]).axes
    assert texts(bars) == ["rank 0 (node1)", "rank 1 (node2)"]
    by_part = [[bar.get_width() for bar in container] for container in bars.containers]
    widths = dict(zip(COLOURS, by_part, strict=True))
    assert widths["forward_backward"] == [4.0, 18.0]
    assert widths["communication"] == [14.0, 0.0]
    heights = [[bar.get_height() for bar in container] for container in course.containers[: len(COLOURS)]]
    assert np.sum(heights, axis=0) == pytest.approx([1.0, 1.0])
    assert dict(zip(COLOURS, heights, strict=True))["data"] == pytest.approx([0.1, 0.1])
    labels = course.get_legend_handles_labels()[1]
    assert "forward + backward 55.0%" in labels


def test_of_many_ranks_those_that_work_longest_have_bars(monkeypatch):
    monkeypatch.setattr(time_charts, "MOST_RANKS", 2)
    rows = {"data": [[1.0, 5.0, 2.0, 4.0]], "communication": [[9.0, 5.0, 8.0, 6.0]]}
    bars, _ = draw_step_times([10], seconds(rows), [*"abcd"]).axes
    assert texts(bars) == ["rank 1 (b)", "rank 3 (d)"]
    assert "the 2 of 4 ranks that work longest" in bars.get_title()


def test_many_reports_are_drawn_together(monkeypatch):
    monkeypatch.setattr(time_charts, "MOST_COLUMNS", 4)
    rows = {"data": [[1.0]] * 100, "optimizer": [[3.0]] * 100}
    _, course = draw_step_times([*range(1, 101)], seconds(rows), ["a"]).axes
    columns = [bar for bar in course.containers[0] if bar.get_width()]
    assert [bar.get_width() for bar in columns] == [25.0] * 4


def test_bars_are_of_the_last_number_of_ranks():
    changed = {part: [[1.0], [1.0, 2.0], [1.0, 2.0]] for part in PARTS}
    bars, course = draw_step_times([5, 10, 10], changed, ["a", "b"]).axes
    assert [bar.get_width() for bar in bars.containers[0]] == [2.0, 4.0]
    assert [bar.get_width() for bar in course.containers[0]] == [5.0, 5.0]  # two reports of step 10
