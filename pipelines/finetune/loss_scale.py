"""Dynamic loss scaling for float16 (Micikevicius et al. 2018, arXiv 1710.03740, section 3.2), by the rule and
with the numbers of torch.amp.GradScaler.

float16 ends at 65,504 and loses what is below 6e-8. So the loss is multiplied before backward, and the summed
gradients are divided before clipping. A gradient that is not finite means that the factor is too high: the
step changes no weights, no state of the optimizer and no mean, and the factor is halved; after `GROWTH_STEPS`
steps without that it is doubled. The gradient that is looked at is that of all ranks, so all skip the same
steps. A skipped step has used its batch, and counts: the order of the data stays a function of the step.

In other precisions the factor is 1 for ever, and no step is skipped.
"""

from dataclasses import dataclass, replace
from typing import Any

from pipelines.finetune.checkpoint.format import TrainState
from pipelines.finetune.training import Precision

FIRST, GROWTH, BACKOFF, GROWTH_STEPS = 2.0**16, 2.0, 0.5, 2000
"""The defaults of torch.amp.GradScaler. Powers of two: scaling rounds nothing."""
MAX_SKIPPED = 20
"""Steps in a row that may be skipped: then the factor has fallen by a million, and it is not the reason."""


@dataclass(slots=True)
class LossScale:
    """The factor of the next step, and what it depends on. All ranks hold the same."""

    value: float
    is_dynamic: bool
    num_since_change: int = 0
    """Steps since the factor changed."""
    num_skipped: int = 0
    """Skipped steps of the training."""
    num_skipped_in_row: int = 0

    def update(self, *, is_finite: bool) -> bool:
        """Take note of a step, by whether its summed gradient was finite; whether training may go on."""
        if not self.is_dynamic:
            return is_finite
        if is_finite:
            self.num_since_change, self.num_skipped_in_row = self.num_since_change + 1, 0
            if self.num_since_change == GROWTH_STEPS:
                self.value, self.num_since_change = self.value * GROWTH, 0
            return True
        self.value, self.num_since_change = self.value * BACKOFF, 0
        self.num_skipped, self.num_skipped_in_row = self.num_skipped + 1, self.num_skipped_in_row + 1
        return self.num_skipped_in_row <= MAX_SKIPPED

    def describe(self) -> dict[str, Any]:
        """Fields of a step's result; none in other precisions."""
        return {"loss_scale": self.value, "num_skipped": self.num_skipped} if self.is_dynamic else {}

    def keep_in(self, state: TrainState) -> TrainState:
        """`state` with all that a resumed training needs of it."""
        if not self.is_dynamic:
            return state
        return replace(
            state,
            loss_scale=self.value,
            num_since_scale_change=self.num_since_change,
            num_skipped=self.num_skipped,
            num_skipped_in_row=self.num_skipped_in_row,
        )


UNSCALED = LossScale(1.0, is_dynamic=False)


def find_loss_scale(precision: Precision, state: TrainState) -> LossScale:
    """The factor with which a training goes on from `state`."""
    if precision != "float16":
        return UNSCALED
    return LossScale(
        FIRST if state.loss_scale is None else state.loss_scale,
        is_dynamic=True,
        num_since_change=state.num_since_scale_change,
        num_skipped=state.num_skipped,
        num_skipped_in_row=state.num_skipped_in_row,
    )
