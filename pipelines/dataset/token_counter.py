"""The tokenizer with which the report of a corpus estimates tokens: that of the sequences, or their next."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipelines.corpus.report.reading import are_made_from
from pipelines.corpus.report.tokens import TokenCounter, explain_unknown
from pipelines.dataset.examples.encode import find_frame
from pipelines.dataset.tokenizer import load_tokenizer, read_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from pipelines.pin import Pin

TRAINED = (
    "Tokens are not known: the stage dataset trains the tokenizer (dataset.tokenizer.base is null), and this "
    "page was written without its table of sequences. Run the stage dataset, then corpus --report."
)


def find_counter(
    base: str | None, documents: "Pin | None", sequences: "Pin | None", tokenizers: str
) -> TokenCounter | str:
    """The counter for a report about `documents`, or a sentence that says why there is none.

    The tokenizer is that of the sequences if they were made from these documents, so that estimates and
    exact numbers have one unit; else `base`; else that of the sequences of other documents. `tokenizers` is
    the folder of theirs. A tokenizer that cannot be had is no reason to stop: the rest of the report does not
    need it.
    """
    try:
        if sequences is not None and (base is None or are_made_from(sequences, documents)):
            kept = sequences.facts.get("tokenizer", "")
            return make_counter(
                read_tokenizer(tokenizers, kept), f"tokenizer of table sequences ({kept[:12]})"
            )
        if base is None:
            return TRAINED
        return make_counter(load_tokenizer(base).tokenizer, f"tokenizer of {base}")
    except (OSError, ValueError) as error:
        return explain_unknown(error)


def make_counter(tokenizer: "Tokenizer", name: str) -> TokenCounter:
    """Counts what the stage dataset makes of a text: nothing is cut, special tokens in it are characters.

    It, and the counter, raise ValueError if the tokenizer cannot encode a text.
    """

    def count(texts: Sequence[str]) -> list[int]:
        with _name_tokenizer(name):
            encodings = tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [len(encoding.ids) for encoding in encodings]

    with _name_tokenizer(name):
        num_around = sum(map(len, find_frame(tokenizer)))
    return TokenCounter(name, count, num_around)


@contextmanager
def _name_tokenizer(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the library's errors have no class of their own
        raise ValueError(
            f"{name} cannot encode a text ({error}); choose another corpus.report_tokenizer"
        ) from error
