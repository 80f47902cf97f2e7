"""What a preference training minimises. No torch: a configuration is checked without loading it."""

from dataclasses import dataclass
from typing import Literal, get_args

LossName = Literal["dpo", "orpo"]
PREFERENCE = "preference"
"""The task."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PreferenceLoss:
    """The loss of a pair of responses; tasks/preference.py has the formulas."""

    loss: LossName = "dpo"
    """dpo compares with the model that the training starts from, and holds a second copy of it; orpo also
    learns to write the chosen response, and needs none."""
    beta: float = 0.1
    """dpo: how much a log-probability weighs that differs from the reference; the higher, the closer the
    model stays to it. orpo: weight of the odds ratio."""
    label_smoothing: float = 0.0
    """dpo: share of the pairs whose responses may be the wrong way round."""

    def __post_init__(self) -> None:
        if self.loss not in get_args(LossName):
            raise ValueError(f"loss must be dpo or orpo, got {self.loss!r}")
        if not 0 < self.beta < float("inf"):
            raise ValueError(f"beta must be greater than 0 and finite, got {self.beta}")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must be in [0, 0.5), got {self.label_smoothing}")
        if self.loss == "orpo" and self.label_smoothing:
            raise ValueError(
                f"label_smoothing must be 0 with loss orpo, got {self.label_smoothing}; only dpo has it"
            )

    @property
    def needs_reference(self) -> bool:
        """Whether the loss compares with the model that the training starts from."""
        return self.loss == "dpo"
