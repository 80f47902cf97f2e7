"""Pairs of responses for the tests of preferences: after a prompt, the chosen one counts upwards from its
last token, and the rejected one downwards."""

import numpy as np

from pipelines.dataset.rows import NO_LABEL, Rows
from tests.finetune.data import VOCABULARY, write_sequences

LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "tie_word_embeddings": False,
}


def pair_rows(num_rows: int, seed: int) -> Rows:
    """Rows as the dataset stage writes them: two segments with the same prompt of 1 to 4 tokens, and
    responses of 2 to 8."""
    random = np.random.default_rng(seed)
    tokens, targets, lengths = [], [], []
    for _ in range(num_rows):
        prompt = random.integers(0, VOCABULARY, random.integers(1, 5))
        chosen, rejected = (prompt[-1] + way * np.arange(1, random.integers(3, 10)) for way in (1, -1))
        units = [np.concatenate([prompt, each]) % VOCABULARY for each in (chosen, rejected)]
        tokens.append(np.concatenate(units).astype(np.int32))
        targets.append(np.concatenate([np.arange(len(unit)) >= len(prompt) for unit in units]))
        lengths.append(np.array([len(unit) for unit in units], dtype=np.int32))
    num_targets = np.array([each.sum() for each in targets], dtype=np.int64)
    return Rows(
        input_ids=tokens,
        is_target=targets,
        segment_lengths=lengths,
        labels=np.full(num_rows, NO_LABEL, dtype=np.int64),
        num_targets=num_targets,
        num_bytes=3 * num_targets,
    )


def write_pairs(cache) -> None:
    """The copies of all splits where `open_split` looks for them."""
    write_sequences(cache, pair_rows)
