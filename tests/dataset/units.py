"""Units and examples whose tokens are counted up, so that each of them is known by its id."""

import numpy as np

from pipelines.dataset.examples.example import Example, Unit


def unit(first: int, num_tokens: int) -> Unit:
    """Tokens first, first + 1, ...; token i is character i - first, one byte; all but the first are
    targets."""
    starts = np.arange(num_tokens, dtype=np.int32)
    is_target = np.arange(num_tokens) > 0
    ones = np.ones(num_tokens, np.int32)
    return Unit(np.arange(first, first + num_tokens, dtype=np.int32), is_target, starts, starts + 1, ones)


def example(doc_id: str, first: int, *lengths: int, cut: int = 0) -> Example:
    firsts = first + np.cumsum([0, *lengths])
    return Example(doc_id, [unit(*pair) for pair in zip(firsts, lengths, strict=False)], num_cut_tokens=cut)


def random_examples(seed: int, *, num_examples: int = 40, longest: int = 11) -> list[Example]:
    """Examples of one to three units, each of 0 to `longest` tokens; the ids count up over all."""
    generator = np.random.default_rng(seed)
    examples, first = [], 0
    for number in range(num_examples):
        lengths = generator.integers(0, longest + 1, size=generator.integers(1, 4)).tolist()
        examples.append(example(f"doc{number}", first, *lengths))
        first += sum(lengths)
    return examples
