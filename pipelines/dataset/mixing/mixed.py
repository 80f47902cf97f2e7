"""The rows of a training on several sources, and under a curriculum: a `RowSequence` of `order`.

A position belongs to a source (`turns`). Turns of a source count through its passes: in each, a keyed
permutation of the rows that are used maps a turn to a row, as epochs do for all rows. A curriculum puts the
rows of the first turns in another order. All of it is a pure function of (rows by source, plan, curriculum,
seed), with random access. Memory is that of the runs of sources, and 4 bytes per row of the curriculum (8 of
a source above 2^31 rows). While a curriculum is ordered, a source takes 22 to 29 bytes per row of it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from pipelines.dataset.mixing.pace import choose_dtype, order_by_pace
from pipelines.dataset.mixing.plan import MixturePlan, SourcePlan
from pipelines.dataset.mixing.rules import Curriculum
from pipelines.dataset.mixing.source_rows import SourceRows, split_rows
from pipelines.dataset.mixing.turns import Turns
from pipelines.dataset.order import find_positions, make_generator, permute

CHUNK = 1 << 18
"""Rows whose values are looked up at once."""
CHOICE, PACE = 0xFFFFFFFF, 0xFFFFFFFE
"""Instead of the number of a pass, for the choice of the rows that are used and for the curriculum."""


@dataclass(frozen=True, slots=True)
class Difficulty:
    """A curriculum with the values it orders by."""

    curriculum: Curriculum
    values: np.ndarray
    """(num_rows,) of the split; may be a memory map."""


class MixedRows:
    """The row at every position."""

    def __init__(
        self,
        codes: np.ndarray,
        plan: MixturePlan,
        *,
        global_batch: int,
        window_batches: int,
        seed: int,
        difficulty: Difficulty | None = None,
    ) -> None:
        """`codes`: (num_rows,) number of each row's source, in the order of `plan.sources`.

        Raises ValueError if the sources do not have the sequences that the plan was made for.
        """
        rows = split_rows(codes, len(plan.sources))
        for source, found in zip(plan.sources, rows, strict=True):
            if len(found) != source.num_sequences:
                raise ValueError(
                    f"source {source.source} has {len(found):,} sequences, and the mixture was planned for "
                    f"{source.num_sequences:,}; run the finetune stage again"
                )
        self._codes, self._window_rows = codes, window_batches * global_batch
        amounts = [source.num_planned for source in plan.sources]
        self._turns = Turns(amounts, window_rows=self._window_rows, seed=seed)
        self._num_used = np.array([max(1, source.num_used) for source in plan.sources], dtype=np.int64)
        self._streams = [
            _Stream(source, found, seed) for source, found in zip(plan.sources, rows, strict=True)
        ]
        if difficulty is not None:
            num_steps = self._turns.num_positions // global_batch
            last = round(difficulty.curriculum.steps_fraction * num_steps) * global_batch
            for stream, num_turns in zip(self._streams, self._turns.count(last).tolist(), strict=True):
                stream.follow(difficulty, num_turns)

    def list_rows(self, first: int, stop: int) -> np.ndarray:
        """(stop - first,) int64 rows of one window."""
        sources, turns = self._turns.list_turns(first // self._window_rows)  # (num_positions,) each
        assert len(sources) == stop - first, "a window of the order is one of the turns"
        rows = np.empty(len(turns), dtype=np.int64)
        for source in np.unique(sources).tolist():
            chosen = sources == source
            rows[chosen] = self._streams[source].list_rows(turns[chosen])
        return rows

    def list_epochs(self, first: int, stop: int) -> np.ndarray:
        """(stop - first,) int64 passes over the source of each row of one window."""
        sources, turns = self._turns.list_turns(first // self._window_rows)  # (num_positions,) each
        assert len(sources) == stop - first, "a window of the order is one of the turns"
        return turns // self._num_used[sources]

    def find(self, row: int, num_positions: int) -> list[tuple[int, int]]:
        """Pass and position of every time that `row` comes."""
        source = int(self._codes[row])
        visits = [
            (number, self._turns.find_position(source, turn))
            for number, turn in self._streams[source].find_turns(row)
        ]
        return [visit for visit in visits if visit[1] < num_positions]


class _Stream:
    """The rows of one source in the order of its turns."""

    def __init__(self, plan: SourcePlan, rows: SourceRows, seed: int) -> None:
        self._plan, self._rows, self._seed = plan, rows, seed
        # By name: a source keeps its order when another one joins the table.
        name = int.from_bytes(sha256(plan.source.encode()).digest()[:3]) & 0x3FFFFF
        self._key = 1 << 62 | name << 32
        self._paced = np.empty(0, dtype=np.int64)

    def follow(self, difficulty: Difficulty, num_turns: int) -> None:
        """Order the first turns, at most one pass, by a curriculum."""
        num_paced = min(num_turns, self._plan.num_used)
        used = np.empty(num_paced, dtype=choose_dtype(self._plan.num_used))
        values = np.empty(num_paced, dtype=difficulty.values.dtype)
        # In chunks: a permutation takes some 60 bytes for each number that it maps.
        for first in range(0, num_paced, CHUNK):
            stop = min(first + CHUNK, num_paced)
            part = self._list_used(np.arange(first, stop, dtype=np.int64))
            used[first:stop], values[first:stop] = part, difficulty.values[self._locate(part)]
        generator = make_generator(self._seed, self._key | PACE)
        self._paced = used[order_by_pace(values, difficulty.curriculum, generator)]

    def list_rows(self, turns: np.ndarray) -> np.ndarray:
        """(num_turns,) rows of the split."""
        used = self._list_used(turns)  # (num_turns,)
        early = turns < len(self._paced)
        used[early] = self._paced[turns[early]]
        return self._locate(used)

    def find_turns(self, row: int) -> list[tuple[int, int]]:
        """Pass and turn of every time that `row`, of this source, comes."""
        used, plan = self._rows.find_number(row), self._plan
        if plan.num_used < plan.num_sequences:
            (used,) = self._apply(find_positions, [used], plan.num_sequences, CHOICE).tolist()
        if used >= plan.num_used:
            return []
        found = []
        for number in range(-(-plan.num_planned // plan.num_used)):
            early = np.flatnonzero(self._paced == used) if number == 0 else self._paced[:0]
            inside = early if len(early) else self._apply(find_positions, [used], plan.num_used, number)
            found.append((number, number * plan.num_used + int(inside[0])))
        return [visit for visit in found if visit[1] < plan.num_planned]

    def _list_used(self, turns: np.ndarray) -> np.ndarray:
        """(num_turns,) numbers of the rows among those that are used, without a curriculum."""
        passes, inside = np.divmod(turns, max(1, self._plan.num_used))  # (num_turns,) each
        used = np.empty_like(turns)  # (num_turns,)
        for number in np.unique(passes).tolist():
            chosen = passes == number
            used[chosen] = self._apply(permute, inside[chosen], self._plan.num_used, number)
        return used

    def _locate(self, used: np.ndarray) -> np.ndarray:
        plan = self._plan
        if plan.num_used < plan.num_sequences:
            used = self._apply(permute, used, plan.num_sequences, CHOICE)
        return self._rows.list_rows(used)

    def _apply(
        self, function: Callable[..., np.ndarray], numbers: np.ndarray | list[int], num_rows: int, word: int
    ) -> np.ndarray:
        values = np.asarray(numbers, dtype=np.int64)
        return function(values, num_rows, seed=self._seed, epoch=self._key | word)
