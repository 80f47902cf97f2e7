"""Cross-entropy of tokens from hidden states, with the logits of a few tokens at once. Shapes: N targets, H
hidden, V vocabulary.

The float32 logits of all tokens are often the largest tensor of a training (8,192 tokens x 150,000 of
vocabulary: 4.9 GB, three times: logits, their log-softmax, their gradient). Here they are made, and made
again in backward, for one chunk after the other. Cost: one more product with the head, a third of its time.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint


def compute_token_losses(hidden_NH: Tensor, targets_N: Tensor, head: nn.Module, max_tokens: int) -> Tensor:
    """(N,) loss of each target in nats, in float32 or more. `head`: hidden states to logits."""
    if not len(targets_N):
        return hidden_NH.sum(-1)  # (0,), with a gradient: of zeros
    pairs = zip(hidden_NH.split(max_tokens), targets_N.split(max_tokens), strict=True)
    # Nothing here draws random numbers, so there is no state of them to keep.
    losses = [
        checkpoint(_compute_chunk, hidden, targets, head, use_reentrant=False, preserve_rng_state=False)
        for hidden, targets in pairs
    ]
    return torch.cat(losses)


def _compute_chunk(hidden_NH: Tensor, targets_N: Tensor, head: nn.Module) -> Tensor:
    logits_NV = head(hidden_NH)
    if logits_NV.element_size() < 4:
        logits_NV = logits_NV.float()
    return cross_entropy(logits_NV, targets_N, reduction="none")
