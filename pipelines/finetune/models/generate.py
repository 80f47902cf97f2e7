"""Greedy text generation with a causal language model. Shapes: B prompts, T tokens, V vocabulary."""

from collections.abc import Collection, Sequence

import torch
from torch import nn

from pipelines.finetune.models.padding import pad


@torch.inference_mode()
def generate_greedily(
    model: nn.Module,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: Sequence[int],
    stop_ids: Collection[int],
) -> list[list[int]]:
    """The new tokens of each prompt: the likeliest one at each step, up to and with one of `stop_ids`, at
    most its `max_new_tokens`.

    An empty prompt gets no tokens, because there is nothing to predict from. Without a key-value cache, as
    windows are short: the cost is one forward pass per new token, over all prompts that have not ended. The
    caller sets eval mode.
    """
    device = next(model.parameters()).device
    sequences = [list(prompt) for prompt in prompts]
    sizes = [len(prompt) + most for prompt, most in zip(prompts, max_new_tokens, strict=True)]
    open_rows = [row for row, prompt in enumerate(prompts) if prompt and len(prompt) < sizes[row]]
    while open_rows:
        ids_BT, mask_BT = pad([sequences[row] for row in open_rows], device)
        last_B = mask_BT.sum(1) - 1
        logits_BTV = model(input_ids_BT=ids_BT, attention_mask_BT=mask_BT)
        next_B = logits_BTV[torch.arange(len(open_rows), device=device), last_B].argmax(-1)
        for row, token in zip(open_rows, next_B.tolist(), strict=True):
            sequences[row].append(token)
        open_rows = [
            row
            for row in open_rows
            if sequences[row][-1] not in stop_ids and len(sequences[row]) < sizes[row]
        ]
    return [sequence[len(prompt) :] for sequence, prompt in zip(sequences, prompts, strict=True)]
