"""The reference of a training is the model that the training started from, on every rank and after a restart.

Every rank makes its own copy (models/preference.py), from the base or from the seed. A base that changed, or
another torch with other random numbers, would give another one without an error, so its sha256 is kept.
"""

import json

import torch

from pipelines.finetune.parallel.strategy import Strategy
from pipelines.storage import Folder

REFERENCE_FILE = "reference.json"
DIGITS = 13
"""Hex digits that ranks compare: 52 bits, which a float holds."""


def require_reference(digest: str | None, run: Folder, strategy: Strategy) -> None:
    """Keep the digest of the reference when a training begins, and compare it when it continues. Collective;
    null = the training has none.

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
            "finetune.model.base differ or have changed, or another torch draws other random weights; bring "
            f"back the same ones, or delete {run.path} to train from the start"
        )
