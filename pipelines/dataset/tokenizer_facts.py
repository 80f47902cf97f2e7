"""What the commit of the sequences keeps of their tokenizer."""

from tokenizers import Tokenizer

from pipelines.dataset.examples.encode import TextEncoder
from pipelines.dataset.tokenizer import from_json, write_tokenizer


def keep_tokenizer(tokenizer: Tokenizer, folder: str) -> dict[str, str]:
    """Keep the tokenizer in `folder`. Its fingerprint, and what makes the tokens on a machine with the
    packages of this one."""
    # A copy: an encoder changes the settings of its tokenizer.
    encoder = TextEncoder(from_json(tokenizer.to_str()), is_framed=False)
    return {"tokenizer": write_tokenizer(tokenizer, folder), "encoder": encoder.description}
