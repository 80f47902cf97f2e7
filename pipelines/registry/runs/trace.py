"""Which documents a step of a run saw, and which steps saw a document. Starts neither Spark nor torch.

The rows of a step are computed from what the run recorded (`order`), the documents of a row are read from the
pinned table (`dataset.trace`). So the answer is that of the training itself, at any step, also of a run that
is still going on.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pipelines.catalog import find_location
from pipelines.dataset.document_rows import read_documents_by_id
from pipelines.dataset.mixing.build import Sources, build_order
from pipelines.dataset.mixing.mixed import Difficulty
from pipelines.dataset.mixing.plan import MixturePlan
from pipelines.dataset.mixing.rules import Curriculum
from pipelines.dataset.mixing.stored import read_mixture
from pipelines.dataset.order import Order, num_steps
from pipelines.dataset.pinned_files import open_version
from pipelines.dataset.trace import SequenceTrace, Span
from pipelines.finetune.results import read_result
from pipelines.finetune.training import BatchPlan
from pipelines.registry.runs.data import RunData

TRAINED, HELD_OUT = "train", ("validation", "test")
ID_DIGITS = 32

Answer = dict[str, Any]
"""Plain types: what `distributary trace --json` prints. Steps and epochs count from 1, as in the charts of a
run; ranks from 0."""


@dataclass(frozen=True)
class RunTrace:
    """The answers about one run."""

    run: RunData
    num_ranks: int | None
    """None = not known, because the run was continued with another number: then `rank` is null."""

    def trace_step(
        self, step: int, rank: int | None = None, *, sequence_ids: Collection[int] | None = None
    ) -> Answer:
        """The sequences of a step and their documents, of all ranks or of one, in the order of the batch;
        with `sequence_ids`, only these.

        Raises ValueError for a step or a rank that the run does not have.
        """
        assert rank is None or self.num_ranks is not None, "who asks for a rank knows how many there are"
        if not 1 <= step <= self.total_steps:
            raise ValueError(
                f"step must be from 1 to {self.total_steps:,}, the last step of run {self.run.run_id}, "
                f"got {step}"
            )
        num_ranks = self.num_ranks or 0
        if rank is not None and not 0 <= rank < num_ranks:
            raise ValueError(
                f"rank must be from 0 to {num_ranks - 1}, because the run has {num_ranks} ranks, got {rank}"
            )
        batch = self._order.batch(step - 1)  # (global_batch,)
        places = np.arange(len(batch)) if rank is None else self._list_places(rank)  # (num_places,)
        if sequence_ids is not None:
            ids = self._sequences(TRAINED).numbers.find_ids(batch[places])  # (num_places,)
            places = places[np.isin(ids, list(sequence_ids))]
        spans = self._sequences(TRAINED).read_spans(batch[places].tolist())
        listed = [
            {
                "row": row,
                "sequence_id": spans[row][0].sequence_id,
                "rank": self._find_rank(place),
                "segments": [_describe(span) for span in spans[row]],
            }
            for place, row in zip(places.tolist(), batch[places].tolist(), strict=True)
        ]
        return {**self.describe_run(), **self._describe_step(step), "sequences": listed}

    def trace_document(self, doc_id: str) -> Answer:
        """The sequences that hold a document, and when each of them was seen.

        Raises ValueError for what is no doc_id, LookupError if the document is in no sequence, with the
        reason if a rule dropped it.
        """
        if len(doc_id) != ID_DIGITS or not set(doc_id) <= set("0123456789abcdef"):
            raise ValueError(
                f"a document is named by its doc_id, {ID_DIGITS} hex digits, as in the table documents; got "
                f"{doc_id!r}"
            )
        for split in (TRAINED, *HELD_OUT):
            found: dict[int, list[Span]] = {}
            for span in self._sequences(split).find_document(doc_id):
                found.setdefault(span.sequence_id, []).append(span)
            if found:
                break
        else:
            raise LookupError(self._explain_absence(doc_id))
        rows = self._sequences(split).numbers.find_rows(np.array(list(found)))  # (num_found,)
        listed = [
            {
                "row": row,
                "sequence_id": sequence_id,
                "segments": [_describe(span) for span in spans],
                "seen": self._list_visits(row) if split == TRAINED else [],
            }
            for row, (sequence_id, spans) in zip(rows.tolist(), found.items(), strict=True)
        ]
        return {**self.describe_run(), "document": doc_id, "split": split, "sequences": listed}

    def add_texts(self, answer: Answer) -> None:
        """Give every segment of an answer the `text` of its characters.

        Reads the ids of the documents table: seconds on millions of documents.
        """
        parts = answer.get("spikes", [answer])
        segments = [segment for part in parts for row in part["sequences"] for segment in row["segments"]]
        texts = self._read_documents({segment["doc_id"] for segment in segments}, ["text"])
        for segment in segments:
            text = texts[segment["doc_id"]]["text"]
            segment["text"] = text[segment["char_start"] : segment["char_end"]]

    @cached_property
    def total_steps(self) -> int:
        """Optimizer steps of the whole training; those that were done, if it stopped early."""
        num_rows, run = self._sequences(TRAINED).num_rows, self.run
        if self._mixture is not None:
            planned = self._mixture.num_planned // run.global_batch
        else:
            planned = num_steps(num_rows, global_batch=run.global_batch, num_epochs=run.num_epochs)
        return planned if self._result is None else int(self._result.get("total_steps", planned))

    @cached_property
    def _order(self) -> Order:
        rows, plan, sources, difficulty = self._sequences(TRAINED), self._mixture, None, None
        if plan is not None:
            names = [each.source for each in plan.sources]
            sources = Sources(plan, names, rows.read_column("source", names))
        if self.run.curriculum is not None:
            curriculum = Curriculum(**self.run.curriculum)
            difficulty = Difficulty(curriculum, rows.read_column(str(curriculum.column)))
        return build_order(rows.read_lengths(), self.run, sources=sources, difficulty=difficulty)

    @cached_property
    def _mixture(self) -> MixturePlan | None:
        pinned = self.run.mixture
        return None if pinned is None else read_mixture(**{**pinned, "path": find_location(pinned["path"])})

    def _find_rank(self, place: int) -> int | None:
        return None if self._ranks is None else int(self._ranks[place])

    @cached_property
    def _ranks(self) -> np.ndarray | None:
        """(global_batch,) rank of each place of a batch; None if it is not known."""
        if self.num_ranks is None:
            return None
        ranks = np.empty(self.run.global_batch, dtype=np.int64)
        for rank in range(self.num_ranks):
            ranks[self._list_places(rank)] = rank
        return ranks

    def _list_places(self, rank: int) -> np.ndarray:
        batch = self.run.global_batch
        plan = BatchPlan(global_batch=batch, micro_batch=batch, num_replicas=self.num_ranks or 1)
        return plan.deal(np.arange(batch), rank)

    def _list_visits(self, row: int) -> list[Answer]:
        return [
            {
                "epoch": visit.epoch + 1,
                "rank": self._find_rank(visit.place),
                **self._describe_step(visit.step + 1),
            }
            for visit in self._order.find_visits(row)
            if visit.step < self.total_steps
        ]

    def _describe_step(self, step: int) -> Answer:
        return {"step": step, "in_model": None if self._best_step is None else step <= self._best_step}

    def describe_run(self) -> Answer:
        """What every answer says of the run."""
        return {
            "run": self.run.run_id,
            "status": self.run.status,
            "total_steps": self.total_steps,
            "model_of_step": self._best_step,
            "num_ranks": self.num_ranks,
            "table": self.run.sequences,
        }

    @cached_property
    def _best_step(self) -> int | None:
        """The step whose weights became the model: later steps left nothing in it. None = not known."""
        return None if self._result is None else int(self._result["best_step"])

    @cached_property
    def _result(self) -> Answer | None:
        """What the training wrote at its end."""
        return read_result(self.run.folder) if self.run.folder else None

    @cached_property
    def _opened(self) -> dict[str, SequenceTrace]:
        return {}

    def _sequences(self, split: str) -> SequenceTrace:
        if split not in self._opened:
            self._opened[split] = SequenceTrace(**self.run.sequences, split=split)
        return self._opened[split]

    def _read_documents(self, doc_ids: set[str], columns: list[str]) -> dict[str, dict[str, Any]]:
        pinned = {**self.run.documents, "path": find_location(self.run.documents["path"])}
        return read_documents_by_id(doc_ids=doc_ids, columns=columns, **pinned)

    def _explain_absence(self, doc_id: str) -> str:
        pinned = self.run.documents
        row = self._read_documents({doc_id}, ["drop_reason", "split"]).get(doc_id)
        where = f"version {pinned['version']} of {pinned['path']}, from which run {self.run.run_id} was made"
        if row is None:
            return f"there is no document {doc_id} in {where}; take a doc_id of that version"
        if row["drop_reason"] is not None:
            return (
                f"document {doc_id} was dropped by {row['drop_reason']} in {where}: no step saw it; "
                "the rules are in corpus.rules"
            )
        known = self._read_left_out().get(doc_id)
        return (
            f"document {doc_id} of split {row['split']} was kept in {where}, but is in no sequence: its task "
            f"found nothing to learn in it{f' ({known})' if known else ''}"
        )

    def _read_left_out(self) -> dict[str, str]:
        """doc_id -> reason of the documents left out that the commit of the sequences names."""
        path, version = self.run.sequences["path"], self.run.sequences["version"]
        log = open_version(path, version)
        pinned = None if log is None else log.read_pin(version)
        named = pinned.facts.get("left_out", {}).get("first", []) if pinned else []
        return {each["doc_id"]: each["reason"] for each in named}


def _describe(span: Span) -> Answer:
    return {name: value for name, value in span._asdict().items() if name != "sequence_id"}
