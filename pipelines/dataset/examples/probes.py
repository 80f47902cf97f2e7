"""Texts that show whether two encoders of one tokenizer agree: odd characters, the special tokens, and the
vocabulary itself, in random neighbourhoods. The same texts every time."""

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NUM_TEXTS, PARTS = 500, 40
"""Random texts, and the most parts of each: 60,000 tokens with the vocabulary, 0.1 s."""
MAX_TOKENS = 20_000
"""Entries of the vocabulary that are tried, at equal distances."""
ODD = (
    *("'s", "'S", "'\u017f", "'re", "'LL", "'", "o'clock", "Word", "a", "HTTPServer", "snake_case_name"),
    *(" ", "  ", "\t", "\n", "\n\n", "\r\n", "\r", "\x00", "\x1c", "\x85", "\u00a0", "\u2028", "\u3000"),
    *("1", "12345", "3.14", "\u0664\u0665", "\u00bd", "...", "-", "->", "{}", "!=", "//", "#", "_"),
    *(
        "\u00e9",
        "e\u0301",
        "\ufb01",
        "\u200b",
        "\ufeff",
        "\u0e33",
        "\u0915\u094d\u0937\u093f",
        "\ud55c",
        "\u1112",
    ),
    *(
        "\u4f60\u597d",
        "\uff01",
        "\u3002",
        "\u05e9\u05dc\u05d5\u05dd",
        "\u0645\u0631",
        "\U0001f600",
        "\U00020000",
    ),
    *(
        "\U0001f469\u200d\U0001f467",
        "\U0001f1e9\U0001f1ea",
        "\U0010ffff",
        "x" * 100,
        " " * 40,
        "\n" * 9,
        "=" * 80,
    ),
)
_SURROGATES = range(0xD800, 0xE000)


def list_probes(tokenizer: "Tokenizer") -> list[str]:
    """At least one text for each part of the tokenizer that can differ."""
    choose = random.Random(0)
    own = _list_own_parts(tokenizer)
    parts = [*ODD, *(token.content for token in tokenizer.get_added_tokens_decoder().values())]
    texts = ["", *parts]
    texts += [" ".join(own[start : start + PARTS]) for start in range(0, len(own), PARTS)]
    for _ in range(NUM_TEXTS):
        kinds = (parts, own or parts, [_draw_character(choose) for _ in range(PARTS)])
        size = choose.randrange(PARTS)
        texts.append("".join(choose.choice(choose.choice(kinds)) for _ in range(size)))
    return texts


def _list_own_parts(tokenizer: "Tokenizer") -> list[str]:
    """What the tokens of the vocabulary write, as far as it is text."""
    size = tokenizer.get_vocab_size(with_added_tokens=False)
    written = tokenizer.decode_batch([[number] for number in range(0, size, max(1, size // MAX_TOKENS))])
    return [part for part in written if part and "\ufffd" not in part]


def _draw_character(choose: random.Random) -> str:
    """Any character; half of them below U+3000, where most scripts are."""
    code = choose.randrange(choose.choice((0x3000, 0x110000)))
    return "?" if code in _SURROGATES else chr(code)
