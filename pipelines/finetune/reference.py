"""The reference of a training is the same on every rank and after a restart: the model that the training
started from (models/preference.py), or its teacher (models/teacher.py).

Every rank makes its own copy, from files or from the seed. A base that changed, or another torch with other
random numbers, would give another one without an error, so its sha256 is kept.
"""

import json

import torch
from torch import nn

from pipelines.finetune.models.preference import PreferenceDecoder
from pipelines.finetune.models.teacher import digest_teacher
from pipelines.finetune.parallel.strategy import Strategy
from pipelines.storage import Folder

REFERENCE_FILE = "reference.json"
DIGITS = 13
"""Hex digits that ranks compare: 52 bits, which a float holds."""


def digest_reference(model: nn.Module) -> str | None:
    """sha256 of what a new model is compared with in training: its reference, or its teacher; None = nothing.
    O(weights)."""
    if isinstance(model, PreferenceDecoder):
        return model.digest_reference()
    return digest_teacher(model)


def require_reference(
    digest: str | None, run: Folder, strategy: Strategy, *, source: str = "finetune.model.base"
) -> None:
    """Keep the digest of the reference when a training begins, and compare it when it continues. Collective;
    null = the training has none. `source`: the setting that names its weights.

    Raises ValueError on every rank if one of them has another reference.
    """
    if digest is None:
        return
    kept = digest
    if strategy.rank == 0 and run.exists(REFERENCE_FILE):
        kept = str(json.loads(run.read(REFERENCE_FILE))["sha256"])
    elif strategy.rank == 0:
        run.write(REFERENCE_FILE, json.dumps({"sha256": digest}).encode())
    expected = strategy.agree(float(int(kept[:DIGITS], 16)))
    is_other = float(int(digest[:DIGITS], 16)) != expected
    num_others = int(strategy.sum(torch.tensor([float(is_other)]), name="reference"))
    if num_others:
        raise ValueError(
            f"the reference of this training began with sha256 {int(expected):0{DIGITS}x}, but {num_others} "
            f"of {strategy.world_size} ranks have another one (this rank {digest[:DIGITS]}): the weights of "
            f"{source} differ or have changed, or another torch draws other random weights; bring "
            f"back the same ones, or delete {run.path} to train from the start"
        )
