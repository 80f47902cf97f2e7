import numpy as np
import pytest

from pipelines.dataset.mixing.pace import NUM_STAGES, order_by_pace
from pipelines.dataset.mixing.rules import Curriculum


def generator():
    return np.random.default_rng(1)


@pytest.mark.parametrize("num_rows", [0, 1, 7, 99, 100, 101, 5000])
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_every_row_comes_once(num_rows, power):
    values = np.random.default_rng(0).integers(0, 40, num_rows)
    ordered = order_by_pace(values, Curriculum(column="num_tokens", power=power), generator())
    assert sorted(ordered) == list(range(num_rows))


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_no_row_comes_before_the_competence_of_its_stage(power):
    values = np.random.default_rng(0).permutation(10_000)  # a row's value is its rank
    curriculum = Curriculum(column="num_tokens", start_fraction=0.2, power=power)
    came = values[order_by_pace(values, curriculum, generator())].reshape(NUM_STAGES, -1)
    hardest = []
    for stage, ranks in enumerate(came):
        allowed = max(curriculum.find_competence(stage / NUM_STAGES), (stage + 1) / NUM_STAGES)
        assert ranks.max() < np.ceil(allowed * 10_000)
        hardest.append(ranks.max() / 10_000)
    # Not just the easiest ones: hard rows of what is allowed come at once.
    assert hardest[0] > 0.15
    assert np.mean(came[0]) / 10_000 == pytest.approx(0.1, abs=0.03)


def test_descending_puts_high_values_first():
    values = np.arange(1000)
    ordered = order_by_pace(values, Curriculum(column="num_bytes", descending=True), generator())
    assert values[ordered[:100]].min() > 700
    assert values[ordered[-100:]].max() < 700


def test_a_start_with_all_rows_is_a_random_order():
    values = np.arange(5000)
    ordered = order_by_pace(values, Curriculum(column="num_tokens", start_fraction=1.0), generator())
    assert abs(np.corrcoef(ordered, values)[0, 1]) < 0.05
