"""The settings of the ranks of a training: how many they are, what each holds at once, and who carries
tensors between them."""

from typing import Annotated

from pydantic import Field

from jobs.shell.data_order import OrderSection
from jobs.shell.settings import Positive
from pipelines.finetune.parallel.rules import Backend, LocalSgdRules
from pipelines.finetune.training import Precision, StrategyName


class RanksSection(OrderSection):
    micro_batch: Positive
    num_ranks: Positive
    num_threads: Positive
    strategy: StrategyName
    collectives: Backend
    local_sgd: LocalSgdRules
    precision: Precision
    activation_checkpointing: bool
    max_logit_tokens: Positive | None
    checkpoint_in_background: bool
    gpus_per_rank: Annotated[float, Field(ge=0, le=1)]
    max_copies_gb: Annotated[float, Field(gt=0)] | None
    compile: bool
    compare_replicas_every_steps: Positive | None
    peak_tflops: Annotated[float, Field(gt=0)] | None
    timeline: bool
    system_metrics: bool
    wait_for_slots_seconds: Annotated[float, Field(ge=0)]
