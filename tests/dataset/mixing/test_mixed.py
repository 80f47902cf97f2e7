import tracemalloc
from collections import Counter

import numpy as np
import pytest

from pipelines.dataset.mixing import mixed
from pipelines.dataset.mixing.mixed import Difficulty, MixedRows
from pipelines.dataset.mixing.plan import SourceCount, plan_mixture
from pipelines.dataset.mixing.rules import Curriculum, Mixture
from pipelines.dataset.order import Order
from pipelines.finetune.training import BatchPlan

NAMES = ["code", "web", "wiki"]
SHARES = {"code": 0.2, "web": 0.45, "wiki": 0.35}
CURRICULUM = Curriculum(column="num_tokens", steps_fraction=0.5, start_fraction=0.1)


class Case:
    """A split of three sources in runs, and a training on it."""

    def __init__(
        self, mixture, *, num_rows=600, num_epochs=1.5, global_batch=12, window=5, seed=3, curriculum=None
    ):
        random = np.random.default_rng(num_rows)
        self.codes = np.repeat(random.choice(3, num_rows, p=[0.1, 0.6, 0.3]), random.integers(1, 6, num_rows))
        self.codes = self.codes[:num_rows].astype(np.int32)
        self.lengths = random.integers(5, 16, num_rows)
        counts = [
            SourceCount(
                source=name,
                num_sequences=int((self.codes == code).sum()),
                num_tokens=int(self.lengths[self.codes == code].sum()),
            )
            for code, name in enumerate(NAMES)
        ]
        self.plan = plan_mixture(mixture, counts, num_epochs=num_epochs, global_batch=global_batch)
        self.steps = self.plan.num_planned // global_batch
        self._given = {"global_batch": global_batch, "window_batches": window, "seed": seed}
        self._difficulty = None if curriculum is None else Difficulty(curriculum, self.lengths)

    def order(self):
        rows = MixedRows(self.codes, self.plan, **self._given, difficulty=self._difficulty)
        return Order(self.lengths, total_steps=self.steps, **self._given, rows=rows)

    def batches(self):
        order = self.order()
        return [order.batch(step).tolist() for step in range(self.steps)]


CASES = {
    "shares": (Mixture(shares=SHARES), {}),
    "one step": (Mixture(shares=SHARES), {"num_epochs": 0.01}),
    "windows of one batch": (Mixture(shares=SHARES), {"window": 1}),
    "many passes": (Mixture(shares={"code": 0.6}), {"num_epochs": 4.3, "num_rows": 90, "global_batch": 8}),
    "left out": (Mixture(shares={"web": 0.0}), {"num_epochs": 2.5}),
    "limits": (Mixture(temperature=1e6, max_repeats={"code": 1.5}, max_sequences={"web": 70}), {}),
    "curriculum": (Mixture(shares=SHARES), {"curriculum": CURRICULUM}),
    "all of it": (
        Mixture(shares={"code": 0.1}, temperature=2.0, max_repeats=4, max_sequences={"wiki": 40}),
        {"num_epochs": 2.1, "curriculum": Curriculum(column="num_tokens", descending=True), "window": 3},
    ),
}


@pytest.fixture(params=CASES)
def case(request):
    mixture, others = CASES[request.param]
    return Case(mixture, **others)


def test_every_source_gives_what_was_planned_and_no_row_comes_too_often(case):
    seen = Counter(row for batch in case.batches() for row in batch)
    for code, source in enumerate(case.plan.sources):
        times = [seen[row] for row in np.flatnonzero(case.codes == code).tolist()]
        assert sum(times) == source.num_planned
        assert np.count_nonzero(times) == min(source.num_used, source.num_planned)
        # Whole passes over the rows that are used, and at most one more: never one row twice as often.
        assert max(times) == int(np.ceil(source.repeats))
        assert sorted(times)[len(times) - source.num_used :][:1] in ([], [int(source.repeats)])


def test_visits_of_every_row_are_where_the_batches_have_it(case):
    order, batches = case.order(), case.batches()
    places = {}
    for step, batch in enumerate(batches):
        for place, row in enumerate(batch):
            places.setdefault(row, []).append((step, place))
    assert len(places) < len(case.codes) or case.steps > 1
    for row in range(0, len(case.codes), 7):
        visits = order.find_visits(row)
        assert sorted(visit[1:] for visit in visits) == places.get(row, [])
        assert [visit.epoch for visit in visits] == list(range(len(visits)))


def test_steps_are_read_with_the_passes_of_their_rows(case):
    order, first = case.order(), case.steps // 3
    rows, passes = order.read_steps(range(first, case.steps))
    assert rows.tolist() == case.batches()[first:]
    for row in np.unique(rows)[::7].tolist():
        visits = [visit for visit in order.find_visits(row) if visit.step >= first]
        assert [passes[visit.step - first, visit.place] for visit in visits] == [
            visit.epoch for visit in visits
        ]


def test_a_step_does_not_depend_on_earlier_steps(case):
    batches = case.batches()
    for step in {0, case.steps // 3, case.steps // 2, case.steps - 1}:  # a resumed training starts there
        order = case.order()
        resumed = np.array([order.batch(at) for at in range(step, case.steps)])
        assert resumed.tobytes() == np.array(batches[step:]).tobytes()


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_ranks_together_see_each_global_batch(world_size):
    case = Case(Mixture(shares=SHARES), global_batch=24)
    plan, order = BatchPlan(global_batch=24, micro_batch=5, num_replicas=world_size), case.order()
    orders = [case.order() for _ in range(world_size)]
    for step in range(case.steps):
        parts = [plan.deal(orders[rank].batch(step), rank) for rank in range(world_size)]
        assert sorted(np.concatenate(parts)) == sorted(order.batch(step))
        assert len({len(part) for part in parts}) == 1


def test_each_thousand_steps_is_within_a_thousandth_of_the_plan():
    case = Case(Mixture(shares=SHARES), num_rows=3000, num_epochs=16, global_batch=12, window=25)
    assert case.steps == 4000
    codes = case.codes[np.array(case.batches())]  # (num_steps, global_batch)
    planned = np.array([source.num_planned for source in case.plan.sources]) / case.plan.num_planned
    for first in range(0, 3001, 50):
        realised = np.bincount(codes[first : first + 1000].ravel(), minlength=3) / 12_000
        assert np.abs(realised - planned).max() < 1e-3


def test_a_source_keeps_its_order_when_another_one_joins():
    rows = MixedRows(np.repeat([0, 1], 50), _plan(code=50, web=50), global_batch=10, window_batches=1, seed=0)
    grown = MixedRows(
        np.repeat([0, 1, 2], 50), _plan(code=50, news=50, web=50), global_batch=10, window_batches=1, seed=0
    )
    alone = [row for at in range(0, 100, 10) for row in sorted(rows.list_rows(at, at + 10)) if row >= 50]
    both = [
        row - 50 for at in range(0, 150, 10) for row in sorted(grown.list_rows(at, at + 10)) if row >= 100
    ]
    first = 20  # windows cut the order of a source in different places
    assert len(set(alone[:first]) & set(both[:first])) > 15


def _plan(**sizes):
    counts = [SourceCount(source=name, num_sequences=n, num_tokens=n) for name, n in sizes.items()]
    return plan_mixture(Mixture(), counts, num_epochs=1, global_batch=10)


def test_windows_still_gather_rows_of_similar_length():
    def padding(window):
        case = Case(Mixture(shares=SHARES), window=window)
        return np.mean([case.lengths[batch].max() - case.lengths[batch].mean() for batch in case.batches()])

    assert padding(25) < padding(1) / 3


def test_a_curriculum_orders_the_first_turns_of_every_source_and_no_more():
    plain = Case(Mixture(shares=SHARES), num_epochs=1.6)
    paced = Case(Mixture(shares=SHARES), num_epochs=1.6, curriculum=CURRICULUM)
    half = 40  # of 80 steps, at the end of a window
    assert paced.steps == 80
    before, after = np.array(plain.batches()), np.array(paced.batches())
    assert sorted(before[:half].ravel().tolist()) == sorted(after[:half].ravel().tolist())
    assert np.array_equal(before[half:], after[half:])
    assert not np.array_equal(before[:half], after[:half])
    for code in range(3):
        hard = [
            np.mean([paced.lengths[row] for row in batch if paced.codes[row] == code])
            for batch in (after[:8].ravel(), after[half - 8 : half].ravel())
        ]
        assert hard[0] + 3 < hard[1]
    # The shares of the sources are those of the plan from the first step on.
    shares = np.bincount(paced.codes[after[:20].ravel()], minlength=3) / 240
    planned = np.array([source.num_planned for source in paced.plan.sources]) / paced.plan.num_planned
    assert np.abs(shares - planned).max() < 0.01


def test_rows_of_a_curriculum_are_looked_up_in_chunks(monkeypatch):
    whole = Case(Mixture(shares=SHARES), curriculum=CURRICULUM).batches()
    monkeypatch.setattr(mixed, "CHUNK", 7)
    assert Case(Mixture(shares=SHARES), curriculum=CURRICULUM).batches() == whole


def test_a_curriculum_takes_few_bytes_per_row():
    num_rows = 600_000
    values = np.random.default_rng(0).integers(1, 1024, num_rows).astype(np.int32)
    codes, plan = np.zeros(num_rows, dtype=np.int8), _plan(web=num_rows)
    everything = Difficulty(Curriculum(column="num_tokens", start_fraction=1.0), values)
    tracemalloc.start()
    try:
        rows = MixedRows(codes, plan, global_batch=10, window_batches=1, seed=0, difficulty=everything)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(rows.list_rows(0, 10)) == 10
    assert 4 <= kept / num_rows < 6
    assert peak / num_rows < 60


def test_seeds_and_passes_change_the_order():
    case = Case(Mixture(shares={"code": 0.6}), num_rows=90, num_epochs=4)
    other = Case(Mixture(shares={"code": 0.6}), num_rows=90, num_epochs=4, seed=4)
    assert case.batches() != other.batches()
    code = [row for batch in case.batches() for row in batch if case.codes[row] == 0]
    num_used = case.plan.sources[0].num_used
    assert code[:num_used] != code[num_used : 2 * num_used]


def test_a_plan_for_other_sequences_is_refused():
    case = Case(Mixture(shares=SHARES))
    with pytest.raises(ValueError, match=r"source web has 365 seq.* planned for 366; run the finetune stage"):
        MixedRows(case.codes[1:], case.plan, global_batch=12, window_batches=5, seed=0)
