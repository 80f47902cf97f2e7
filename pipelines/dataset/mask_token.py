"""The token that stands for a masked one, from the files beside a tokenizer.json.

tokenizer_config.json and special_tokens_map.json name it (`mask_token`). Where they do not, as in the model
folders written here, it is a special token with one of the usual names.
"""

from tokenizers import Tokenizer

from pipelines.dataset.end_token import TOKEN_FILES, read_json
from pipelines.dataset.hub import Base

MASK = "<|mask|>"
"""That of the tokenizers trained here."""
NAMES = ("[MASK]", "<mask>", MASK)
"""BERT's, RoBERTa's and ours."""


def find_mask_token(tokenizer: Tokenizer, base: Base) -> int | None:
    """Id of the mask token; None = the tokenizer has none.

    Raises ValueError if a file names a token that the tokenizer does not have.
    """
    for name in TOKEN_FILES:
        token = read_json(base, name).get("mask_token")
        content = token.get("content") if isinstance(token, dict) else token
        if content:
            number = tokenizer.token_to_id(content)
            if number is None:
                raise ValueError(
                    f"{base.pinned_name}: {name} names {content!r} as mask token, but tokenizer.json has no "
                    "such token; save the tokenizer again with transformers' save_pretrained"
                )
            return int(number)
    return find_named_mask(tokenizer)


def find_named_mask(tokenizer: Tokenizer) -> int | None:
    """Id of the special token with one of NAMES; None = there is none."""
    special = {
        token.content: number
        for number, token in tokenizer.get_added_tokens_decoder().items()
        if token.special
    }
    return next((special[name] for name in NAMES if name in special), None)
