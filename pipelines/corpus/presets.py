"""Published rules by name: PRESET@VARIANT is a list of limits on signals, with its source.

A variant says which reading is meant where a paper and the public code differ: `paper`, or the project whose
code it follows. Limits are inclusive: what is equal to a limit is kept. A rule is named PRESET/min_SIGNAL or
PRESET/max_SIGNAL; `Rules.thresholds` changes its limit by this name. Imports nothing heavy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from pipelines.corpus.signals.names import DUPLICATE_GRAMS, TOP_GRAMS


@dataclass(frozen=True, slots=True)
class Limit:
    """One rule: a document is dropped if the signal is below a minimum or above a maximum."""

    rule: str
    """PRESET/min_SIGNAL or PRESET/max_SIGNAL; the reason of what it drops."""
    signal: str
    is_minimum: bool
    threshold: float


@dataclass(frozen=True, slots=True)
class Preset:
    """Limits that were published together."""

    source: str
    """Paper and section, or project and file."""
    limits: tuple[tuple[str, float], ...]
    """(min_SIGNAL or max_SIGNAL, threshold), in the order in which they are tried."""


_GOPHER = "Rae et al. 2021, arXiv 2112.11446, appendix A.1"
_DATATROVE = "datatrove 0.10, pipeline/filters"
_TOP = dict(zip(TOP_GRAMS, (0.20, 0.18, 0.16), strict=True))
_DUPLICATES = dict(zip(DUPLICATE_GRAMS, (0.15, 0.14, 0.13, 0.12, 0.11, 0.10), strict=True))
# FineWeb-2 computed one value per language from reference corpora; these are configs/cmn_Hani.yml.
_CHINESE_TOP = dict(zip(TOP_GRAMS, (0.256, 0.201, 0.171), strict=True))
_CHINESE_DUPLICATES = dict(zip(DUPLICATE_GRAMS, (0.198, 0.182, 0.167, 0.154, 0.14, 0.127), strict=True))


def _limit_repetition(
    unit: str, top: Mapping[int, float], duplicates: Mapping[int, float]
) -> tuple[tuple[str, float], ...]:
    return (
        *((f"max_top_{n}_gram_{unit}_fraction", threshold) for n, threshold in top.items()),
        *((f"max_duplicate_{n}_gram_{unit}_fraction", threshold) for n, threshold in duplicates.items()),
    )


def _limit_c4(variant: str, min_sentences: int) -> tuple[tuple[str, float], ...]:
    return (
        (f"max_c4_{variant}_lorem_ipsum_lines", 0),
        (f"max_c4_{variant}_brace_lines", 0),
        (f"min_c4_{variant}_num_sentences", min_sentences),
    )


_COPIES = (
    ("max_duplicate_line_fraction", 0.30),
    ("max_duplicate_paragraph_fraction", 0.30),
    ("max_duplicate_line_char_fraction", 0.20),
    ("max_duplicate_paragraph_char_fraction", 0.20),
)

PRESETS = {
    "gopher_repetition@paper": Preset(
        f"{_GOPHER}, table A1", (*_COPIES, *_limit_repetition("word", _TOP, _DUPLICATES))
    ),
    "gopher_repetition@datatrove": Preset(
        f"{_DATATROVE}/gopher_repetition_filter.py",
        (*_COPIES, *_limit_repetition("token", _TOP, _DUPLICATES)),
    ),
    "gopher_quality@paper": Preset(
        _GOPHER,
        (
            ("min_num_words", 50),
            ("max_num_words", 100_000),
            ("min_mean_word_length", 3),
            ("max_mean_word_length", 10),
            ("max_hash_word_ratio", 0.1),
            ("max_ellipsis_word_ratio", 0.1),
            ("max_bullet_line_fraction", 0.9),
            ("max_ellipsis_line_fraction", 0.3),
            ("min_alpha_word_fraction", 0.8),
            ("min_num_stop_words", 2),
        ),
    ),
    "gopher_quality@datatrove": Preset(
        f"{_DATATROVE}/gopher_quality_filter.py",
        (
            ("min_num_word_tokens", 50),
            ("max_num_word_tokens", 100_000),
            ("min_mean_token_length", 3),
            ("max_mean_token_length", 10),
            ("max_hash_token_ratio", 0.1),
            ("max_ellipsis_token_ratio", 0.1),
            ("max_bullet_all_line_fraction", 0.9),
            ("max_ellipsis_all_line_fraction", 0.3),
            ("min_alpha_token_fraction", 0.8),
            ("min_num_exact_stop_words", 2),
        ),
    ),
    "c4@paper": Preset(
        "Raffel et al. 2020, arXiv 1910.10683v4, section 2.2: 5 words a line, 3 sentences",
        _limit_c4("paper", 3),
    ),
    "c4@datatrove": Preset(
        f"{_DATATROVE}/c4_filters.py, as JMLR 21(140): 3 words a line, 5 sentences", _limit_c4("datatrove", 5)
    ),
    "c4@fineweb": Preset(
        "Penedo et al. 2024, arXiv 2406.17557: c4@datatrove, but a line may end in any way",
        _limit_c4("fineweb", 5),
    ),
    "fineweb": Preset(
        # The text of the paper says 0.1 for copied characters; its table, its code and FineWeb-2 say 0.01.
        "Penedo et al. 2024, arXiv 2406.17557, section 3.6 and appendix",
        (
            ("min_stop_line_fraction", 0.12),
            ("max_short_line_fraction", 0.67),
            ("max_duplicate_line_char_fraction_of_lines", 0.01),
            ("max_line_break_token_ratio", 0.3),
        ),
    ),
    "fineweb2@cmn_Hani": Preset(
        "Penedo et al. 2025, arXiv 2506.20920, and FineWeb-2, configs/cmn_Hani.yml: Chinese",
        (
            ("max_duplicate_line_fraction", 0.287),
            *_limit_repetition("token", _CHINESE_TOP, _CHINESE_DUPLICATES),
            ("min_stop_line_fraction", 0.106),
            ("max_duplicate_line_char_fraction_of_lines", 0.1),
            ("max_line_break_token_ratio", 0.178),
            ("min_num_word_tokens", 50),
            ("max_num_word_tokens", 100_000),
            ("min_mean_token_length", 1),
            ("max_mean_token_length", 5),
            ("max_hash_token_ratio", 0.1),
            ("max_ellipsis_token_ratio", 0.1),
            ("max_bullet_all_line_fraction", 0.9),
            ("max_ellipsis_all_line_fraction", 0.3),
            ("min_alpha_token_fraction", 0.735),
            ("min_num_chinese_stop_words", 2),
        ),
    ),
}


def choose_limits(presets: Sequence[str], thresholds: Mapping[str, float | None]) -> tuple[Limit, ...]:
    """The rules of the presets in order, with the thresholds changed by name; None switches a rule off.

    Raises ValueError for a preset or rule that does not exist.
    """
    for name in presets:
        if name not in PRESETS:
            raise ValueError(f"presets must be among {', '.join(PRESETS)}; got {name!r}")
    published = {
        f"{name}/{rule}": threshold
        for name in dict.fromkeys(presets)
        for rule, threshold in PRESETS[name].limits
    }
    for rule in thresholds:
        if rule not in published:
            near = get_close_matches(rule, published, n=3, cutoff=0.5) or list(published)[:3]
            hint = f"such as {', '.join(near)}" if near else "but presets is empty"
            raise ValueError(f"thresholds must name a rule of the presets, {hint}; got {rule!r}")
    limits = []
    for rule, threshold in {**published, **thresholds}.items():
        if threshold is not None:
            side, _, signal = rule.rpartition("/")[2].partition("_")
            limits.append(Limit(rule, signal, side == "min", float(threshold)))
    return tuple(limits)
