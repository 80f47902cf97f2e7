"""One rank's training, from a pinned sequences table to a model folder; every rank runs the same function.

The run folder holds everything a restart needs: `checkpoints/`, `events/`, `before.json` (metrics of the
untrained model), perhaps `reference.json` and `sequence_losses/`, and at the end `model/`, for language
models `sample.txt`, and `result.json`, which is written last. A second call continues from the newest
checkpoint, or returns the result.
"""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn

from pipelines.dataset.mixing.build import Sources, build_order
from pipelines.dataset.mixing.mixed import Difficulty
from pipelines.dataset.order import Order
from pipelines.dataset.reader import SequenceReader
from pipelines.dataset.tokenizer import read_tokenizer
from pipelines.finetune.best import is_over, judge_evaluation
from pipelines.finetune.checkpoint.format import TrainState
from pipelines.finetune.checkpoint.writer import CheckpointWriter
from pipelines.finetune.evaluate import Evaluation, evaluate
from pipelines.finetune.events import EventWriter
from pipelines.finetune.export import export_model
from pipelines.finetune.flops import count_flops
from pipelines.finetune.launch.timeline import record_timeline
from pipelines.finetune.launch.world import World
from pipelines.finetune.loop import StepResult, train
from pipelines.finetune.loss_scale import find_loss_scale
from pipelines.finetune.losses.record import LossRecorder, RecordedRows, number_sequences, open_recorder
from pipelines.finetune.models.compiling import leave_uncompiled, require_compiler
from pipelines.finetune.models.lora import count_parameters
from pipelines.finetune.opening import open_together, require_shared_folder
from pipelines.finetune.parallel.strategy import Strategy
from pipelines.finetune.parallel.table import build_strategy
from pipelines.finetune.precision import require_precision
from pipelines.finetune.preemption import RequestReader
from pipelines.finetune.rank_budget import plan_ranks
from pipelines.finetune.realised_mix import RealisedMix
from pipelines.finetune.reference import digest_reference, require_reference
from pipelines.finetune.results import read_result
from pipelines.finetune.splits import open_splits
from pipelines.finetune.start_notes import note_start, warn_of_idle_gpu
from pipelines.finetune.starting_model import build_starting_model
from pipelines.finetune.tasks.distillation import choose_task
from pipelines.finetune.tasks.task import Task
from pipelines.finetune.times.clock import part
from pipelines.finetune.times.view import StepView
from pipelines.finetune.training import BatchPlan, Training
from pipelines.metrics import METRICS
from pipelines.storage import Folder

OPENED = "opened"
"""Folder in which the ranks of each launch wait for each other."""
NUM_SAMPLES = 4
"""Held-out sequences from whose beginnings a language model writes its sample text."""


def train_rank(training: Training, world: World) -> dict[str, Any]:
    """Train on this rank; the result, which says on rank 0 the sha256 of the weights too. A finished training
    returns at once; one that made room says `made_room_at`, the step of its checkpoint, and nothing else.
    """
    finished = read_result(training.folder)
    if finished is not None:
        return finished
    torch.set_num_threads(training.execution.num_threads)
    with record_timeline(training, world):
        return _Rank(training, build_strategy(world, training.execution), world).run()


class _Rank:
    """What the steps of one training share."""

    def __init__(self, training: Training, strategy: Strategy, world: World) -> None:
        self._training, self._strategy, self._world = training, strategy, world
        self._run = Folder(training.folder)
        self._checkpoints, self._events = self._run / "checkpoints", EventWriter(self._run / "events")
        self._tokenizer: Tokenizer = read_tokenizer(training.data.tokenizers, training.spec.tokenizer)
        self._task: Task = choose_task(training.spec, training.teacher)
        self._train: SequenceReader
        self._validation: SequenceReader
        self._final: SequenceReader
        self._sources: Sources | None
        self._order: Order
        self._total_steps: int
        self._mix: RealisedMix | None = None
        self._losses: LossRecorder | None = None
        self._writer: CheckpointWriter
        self._num_trained = self._num_parameters = 0
        self._reference: str | None = None
        self._plan = BatchPlan.of(training, strategy.num_replicas)
        self._state = TrainState()
        self._makes_room = False

    def run(self) -> dict[str, Any]:
        training, strategy = self._training, self._strategy
        require_precision(training.precision, strategy.device)
        require_compiler(training.execution, strategy.device)
        launch = require_shared_folder(self._run, strategy)
        self._open_data(launch)
        self._note("building the model")
        warn_of_idle_gpu(self._events, strategy)
        self._state = strategy.build(
            self._build_model,
            training.optimization,
            num_micro_batches=self._plan.num_micro_batches,
            checkpoints=self._checkpoints,
        )
        self._scale = find_loss_scale(training.precision, self._state)
        source = "model" if training.teacher is None else "teacher"
        require_reference(self._reference, self._run, strategy, source=f"finetune.{source}.base")
        note_start(self._events, strategy, self._state.step, self._num_trained, self._num_parameters)
        before = self._evaluate_before()
        if self._sources is not None and strategy.rank == 0:
            self._mix = RealisedMix(
                self._sources, self._train.lengths, self._order, first_step=self._state.step
            )
        numbers, step = self._numbers, self._state.step
        recorded = None if numbers is None else RecordedRows(self._train, numbers, self._order, self._plan)
        recorder = open_recorder(training, self._task, strategy, recorded, launch=launch, first_step=step)
        self._losses = recorder
        stopped = is_over(self._state, training.cadence)
        first = self._total_steps if stopped else self._state.step
        if first == self._total_steps and self._state.best_step < 0:
            self._evaluate_and_judge(self._state.step)  # the best checkpoint is gone, and no step follows
        self._writer = CheckpointWriter(
            self._checkpoints, strategy, launch, training.execution.checkpoint_in_background
        )
        self._view = StepView(training, strategy, self._world, self._train, self._plan, self._flops)
        try:
            with self._view.measure(), self._writer:
                train(
                    strategy,
                    self._task if recorder is None else recorder.task,
                    self._train,
                    self._order,
                    steps=range(first, self._total_steps),
                    plan=self._plan,
                    optimization=training.optimization,
                    seed=training.schedule.seed,
                    scale=self._scale,
                    meter=self._view.meter,
                    is_asked=RequestReader(self._run, strategy.rank).is_asked,
                    after_step=self._after_step,
                )
        except FloatingPointError as error:  # of all ranks, after the same step
            if recorder is not None:
                recorder.write_last(error)
            raise
        return {"made_room_at": self._state.step} if self._makes_room else self._finish(before)

    def _build_model(self, load_weights: bool) -> nn.Module:
        model = build_starting_model(
            self._training, tokenizer=self._tokenizer, device=self._strategy.device, load_weights=load_weights
        )
        plan_ranks(model, self._total_steps)
        self._flops = count_flops(model)
        self._num_trained, self._num_parameters = count_parameters(model)
        self._reference = digest_reference(model)
        return model

    def _open_data(self, launch: int) -> None:
        """The splits, when all ranks have them."""
        training, strategy = self._training, self._strategy
        self._note("copying the sequences to the disks of the ranks")
        (self._train, self._validation, self._final), self._numbers = open_together(
            lambda: (open_splits(training, strategy.num_replicas), number_sequences(training)),
            self._run / f"{OPENED}/{launch}",
            rank=strategy.rank,
            world_size=strategy.world_size,
            note=self._note,
        )
        names, codes = self._train.source_names, self._train.source_codes
        self._sources = None if training.mixture is None else Sources(training.mixture, names, codes)
        difficulty = None
        if training.curriculum is not None and training.curriculum.column is not None:
            difficulty = Difficulty(training.curriculum, self._train.read_values(training.curriculum.column))
        self._order = build_order(
            self._train.lengths, training.schedule, sources=self._sources, difficulty=difficulty
        )
        self._total_steps = self._order.total_steps

    def _evaluate_before(self) -> dict[str, float]:
        """Metrics of the model at step 0 on the final split; measured once per training."""
        if self._strategy.agree(float(self._run.exists("before.json"))):
            return json.loads(self._run.read("before.json"))
        split = self._training.data.final_split
        evaluation = self._evaluate(self._final, split)
        if self._strategy.rank == 0:
            self._events.write("evaluation", step=0, split=split, **evaluation.metrics)
            self._events.close()
            self._run.write("before.json", json.dumps(evaluation.metrics).encode())
        return evaluation.metrics

    def _evaluate(self, reader: SequenceReader, split: str) -> Evaluation:
        return evaluate(
            self._task,
            reader,
            self._strategy,
            batch_rows=self._training.execution.micro_batch,
            max_rows=self._training.cadence.max_evaluation_sequences,
            progress=lambda share: self._note(f"evaluating {split}: {share:.0%}"),
        )

    def _after_step(self, step: int, result: StepResult, rows: np.ndarray, makes_room: bool) -> bool:
        """Evaluate, save and report what is due; whether the training ends before its last step."""
        self._writer.check()
        cadence, strategy, rank = self._training.cadence, self._strategy, self._strategy.rank
        self._state = self._scale.keep_in(replace(self._state, step=step))
        self._view.look(step, self._events)
        evaluates = step % cadence.evaluate_every_steps == 0 or step == self._total_steps
        if evaluates:
            self._evaluate_and_judge(step)
        stops = is_over(self._state, cadence)
        is_last = stops or step == self._total_steps
        self._makes_room = makes_room and not is_last  # a training that is over ends as usual
        if rank == 0 and (step % cadence.log_every_steps == 0 or is_last):
            traffic = {} if strategy.traffic is None else strategy.traffic._asdict()
            self._events.write(
                "step", step=step, total_steps=self._total_steps, **result._asdict(), **traffic
            )
        for counts in [] if self._mix is None else self._mix.count(step, rows, is_last=is_last):
            self._events.write("mixture", step=step, **counts)
        if evaluates or self._makes_room or step % cadence.checkpoint_every_steps == 0:
            with part("checkpoint"):
                self._save(step)
        return stops or self._makes_room

    def _save(self, step: int) -> None:
        if self._strategy.rank == 0:
            # A resumed training does not repeat these events: they must be on storage before the checkpoint.
            self._events.close()
        if self._losses is not None:  # before the checkpoint, as the events are
            self._losses.write()
        self._note(f"writing the checkpoint of step {step}")
        self._strategy.save(self._writer, self._state)

    def _evaluate_and_judge(self, step: int) -> None:
        """All ranks judge by the value of rank 0: on other machines, a logarithm may end in another digit."""
        split, metric = self._training.data.evaluation_split, METRICS[self._task.metric]
        with part("evaluation"):
            metrics = self._evaluate(self._validation, split).metrics
        value = self._strategy.agree(metrics[metric.name])
        tie = self._strategy.agree(metrics[metric.ties_by]) if metric.ties_by else None
        self._state = judge_evaluation(self._state, value, metric, self._training.cadence, tie)
        if self._strategy.rank == 0:
            self._events.write("evaluation", step=step, split=split, **metrics)
            if is_over(self._state, self._training.cadence):
                text = f"no gain in {self._state.num_without_gain} evaluations: training stops here"
                self._events.write("warning", step=step, text=text)

    def _finish(self, before: dict[str, float]) -> dict[str, Any]:
        """Final metrics of the best weights, the model folder, the result."""
        self._view.finish(self._state.step, self._events)
        self._strategy.agree()  # the best checkpoint is complete
        if self._state.best_step != self._state.step:
            self._strategy.load_weights(self._checkpoints, self._state.best_step)
        split = self._training.data.final_split
        final = self._evaluate(self._final, split)
        result: dict[str, Any] = {
            "metric": self._task.metric,
            "before": before,
            "after": final.metrics,
            "best_step": self._state.best_step,
            "best_value": self._state.best_value,
            "total_steps": self._state.step,
            "planned_steps": self._total_steps,
            "num_final_rows": final.num_rows,
            "num_train_rows": len(self._train),
            "num_parameters": self._num_parameters,
            "num_trained_parameters": self._num_trained,
            "traffic": None if self._strategy.traffic is None else self._strategy.traffic._asdict(),
            "confusion": None,
        }
        model = self._strategy.export()
        if model is not None:
            leave_uncompiled(model)
            # On rank 0 only: 2,000 classes make 4 million numbers.
            result["confusion"] = None if final.confusion is None else final.confusion.tolist()
            rows = self._validation.rows(np.arange(min(NUM_SAMPLES, len(self._validation))))
            spec = self._training.spec
            result["weights"] = export_model(self._run, model, self._task, self._tokenizer, spec, rows)
            self._events.write("final", step=self._state.step, split=split, **final.metrics)
            self._events.close()
            self._run.delete(OPENED)
            self._run.write("result.json", json.dumps(result).encode())
        return result

    def _note(self, text: str) -> None:
        if self._strategy.rank == 0:
            self._events.note(text, step=self._state.step)
