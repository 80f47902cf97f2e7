"""Greedy text generation with a causal language model. Shapes: B prompts, T tokens, V vocabulary."""

from collections.abc import Collection, Sequence

import torch
from torch import nn

from pipelines.finetune.models.cached import open_rows
from pipelines.finetune.models.sharing import SharingModule


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

    An empty prompt gets no tokens, because there is nothing to predict from. The cost is one forward pass
    over the prompts, and one of a single token for each new one; see `cached` for models that need more. The
    caller sets eval mode. A model that shares its backbone keeps it until all rows are written.
    """
    if isinstance(model, SharingModule):
        with model.using() as alone:
            return generate_greedily(alone, prompts, max_new_tokens=max_new_tokens, stop_ids=stop_ids)
    sequences = [list(prompt) for prompt in prompts]
    sizes = [len(prompt) + most for prompt, most in zip(prompts, max_new_tokens, strict=True)]
    writing = [row for row, prompt in enumerate(prompts) if prompt and len(prompt) < sizes[row]]
    rows, kept = open_rows(model), list(range(len(writing)))
    while writing:
        next_B = rows.predict([sequences[row] for row in writing], kept).argmax(-1)
        for row, token in zip(writing, next_B.tolist(), strict=True):
            sequences[row].append(token)
        kept = [
            place
            for place, row in enumerate(writing)
            if sequences[row][-1] not in stop_ids and len(sequences[row]) < sizes[row]
        ]
        writing = [writing[place] for place in kept]
    return [sequence[len(prompt) :] for sequence, prompt in zip(sequences, prompts, strict=True)]
