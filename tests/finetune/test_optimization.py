"""The settings of the optimizer, and the learning rate of every step."""

import math
from dataclasses import asdict

import pytest

from pipelines.finetune.optimization import Optimization, learning_rate

RATES = [
    # Ten steps, two of warm-up. Cosine: (1 + cos(pi k / 8)) / 2 of the way; the others are straight lines.
    ({"schedule": "linear"}, [0.5, 1, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
    (
        {"schedule": "linear", "final_learning_rate_fraction": 0.2},
        [0.5, 1, 1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3],
    ),
    ({"schedule": "constant"}, [0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
    ({"schedule": "wsd", "decay_fraction": 0.4}, [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]),
    (
        {"schedule": "wsd", "decay_fraction": 0.4, "final_learning_rate_fraction": 0.2},
        [0.5, 1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4],
    ),
    ({"schedule": "wsd", "decay_fraction": 0.0}, [0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
    ({"schedule": "wsd", "decay_fraction": 0.8}, [0.5, 1, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
    (
        {"schedule": "cosine", "final_learning_rate_fraction": 0.1},
        [0.5, 1.0, *(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8))],
    ),
]


@pytest.mark.parametrize(("settings", "expected"), RATES)
def test_the_rate_of_every_step(settings, expected):
    optimization = Optimization(learning_rate=1.0, warmup_fraction=0.2, **settings)
    assert [learning_rate(step, 10, optimization) for step in range(10)] == pytest.approx(expected, abs=1e-15)


def test_cosine_is_bitwise_the_rate_of_earlier_versions():
    def earlier(step, total, warmup, rate, floor):
        if step < warmup:
            return rate * (step + 1) / warmup
        progress = (step - warmup) / max(1, total - warmup)
        return rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))

    for floor in (0.0, 0.1, 1 / 3):
        optimization = Optimization(learning_rate=3e-4, final_learning_rate_fraction=floor)
        rates = [learning_rate(step, 997, optimization) for step in range(997)]
        assert rates == [earlier(step, 997, 100, 3e-4, floor) for step in range(997)]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "wsd"])
def test_one_step_needs_no_warmup(schedule):
    assert learning_rate(0, 1, Optimization(learning_rate=0.5, schedule=schedule)) == 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be greater than 0, got 0.0"),
        ({"warmup_fraction": 1.1}, r"warmup_fraction must be in \[0, 1\], got 1.1"),
        ({"decay_fraction": -0.1}, r"decay_fraction must be in \[0, 1\], got -0.1"),
        ({"ema_decay": 1.0}, r"ema_decay must be in \(0, 1\) or null, got 1.0"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0, got -0.1"),
        (
            {"schedule": "wsd", "warmup_fraction": 0.6, "decay_fraction": 0.5},
            "warmup_fraction and decay_fraction must be at most 1 together, got 0.6 and 0.5",
        ),
        (
            {"schedule": "constant", "final_learning_rate_fraction": 0.1},
            "has no effect on schedule constant, got 0.1; set it to 0",
        ),
    ],
)
def test_values_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Optimization(**change)


def test_trainings_of_earlier_versions_keep_their_identity():
    earlier = {
        "learning_rate": 3e-4,
        "head_learning_rate_factor": 1.0,
        "warmup_fraction": 0.1,
        "final_learning_rate_fraction": 0.0,
        "weight_decay": 0.01,
        "max_gradient_norm": 1.0,
        "betas": (0.9, 0.999),
    }
    assert Optimization().identity() == earlier


def test_every_setting_that_is_changed_is_part_of_the_identity():
    changes = {"schedule": "wsd", "decay_fraction": 0.5, "ema_decay": 0.9, "optimizer": "muon"}
    assert asdict(Optimization(**changes)).items() >= changes.items()
    for name, value in changes.items():
        assert Optimization(**{name: value}).identity() == {**Optimization().identity(), name: value}
