"""The names of all signals, by what computes them. Imports nothing, so a configuration is checked quickly.

Units: num_ counts, _fraction of a whole in [0, 1], _ratio of two counts, _length characters. The columns of
table `signals` (`pipelines/tables.py`) have these names and say what each one is.
"""

TOP_GRAMS = (2, 3, 4)
DUPLICATE_GRAMS = (5, 6, 7, 8, 9, 10)
C4_VARIANTS = ("paper", "datatrove", "fineweb")

WORDS = ("num_words", "mean_word_length", "alpha_word_fraction", "hash_word_ratio", "ellipsis_word_ratio")
TOKENS = (
    "num_tokens",
    "num_word_tokens",
    "mean_token_length",
    "alpha_token_fraction",
    "hash_token_ratio",
    "ellipsis_token_ratio",
    "line_break_token_ratio",
)
STOP_WORDS = ("num_stop_words", "num_exact_stop_words", "num_chinese_stop_words")
LINES = (
    "num_lines",
    "bullet_line_fraction",
    "bullet_all_line_fraction",
    "ellipsis_line_fraction",
    "ellipsis_all_line_fraction",
    "duplicate_line_fraction",
    "duplicate_line_char_fraction",
    "duplicate_line_char_fraction_of_lines",
    "stop_line_fraction",
    "short_line_fraction",
)
PARAGRAPHS = ("duplicate_paragraph_fraction", "duplicate_paragraph_char_fraction")


def name_repetition(unit: str) -> tuple[str, ...]:
    """Repeated n-grams of words or tokens; `unit` is word or token."""
    top = [f"top_{n}_gram_{unit}_fraction" for n in TOP_GRAMS]
    return (*top, *(f"duplicate_{n}_gram_{unit}_fraction" for n in DUPLICATE_GRAMS))


def name_c4(variant: str) -> tuple[str, ...]:
    """The line rules of C4 in one variant."""
    facts = ("num_sentences", "line_fraction", "lorem_ipsum_lines", "brace_lines")
    return tuple(f"c4_{variant}_{fact}" for fact in facts)


SIGNALS = (
    *(*WORDS, *TOKENS, *STOP_WORDS, *LINES, *PARAGRAPHS),
    *(*name_repetition("word"), *name_repetition("token")),
    *(name for variant in C4_VARIANTS for name in name_c4(variant)),
)
