"""What a page counts, as JSON for programs: no text of a document and no address is in it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pipelines.corpus.report.content import Amount, Content, Tokens, order_reasons
from pipelines.report import format_numbers, name_version, parse_numbers

FORMAT = 1
"""Of the JSON. Raise it when a key that is read here means something else, or is new."""
_AGAIN = "delete them, and the stage corpus writes the report again"


class Numbers(NamedTuple):
    """What the pictures of a run show; keys as in Content."""

    lengths: Mapping[tuple[bool, int], Amount]
    languages: Mapping[tuple[bool, str | None], Amount] | None
    clusters: Mapping[tuple[str, int], int]
    tokens: Mapping[str | None, Tokens]
    """By drop_reason (None = kept). Empty = not known."""


def write_numbers(content: Content, report_tokenizer: str | None = None) -> str:
    """JSON, one line per group. Equal content gives equal bytes.

    `report_tokenizer`: the setting. The tokenizer that was used may be another one, or none that can be had.
    """
    documents, counts = content.tables[0], content.token_counts
    found = content.count()
    reasons = order_reasons(content.rules, (reason for reason in found if reason is not None))
    ordered = [reason for reason in [*reasons, None] if reason in found]
    outcomes = []
    for source in [None, *content.sources]:
        of_source = content.count(source=source)
        for reason in (reason for reason in ordered if reason in of_source):
            group = {"source": source, "drop_reason": reason, **_name_amount(of_source[reason])}
            if not isinstance(counts, str):
                tokens = counts.count(reason, source)
                group |= {"tokens": tokens.number, "tokens_are_exact": tokens.is_exact}
            outcomes.append(group)
    value: dict[str, Any] = {
        "format": FORMAT,
        **name_version(documents),
        "report_tokenizer": report_tokenizer,
        "quarantined": content.quarantined,
        "outcomes": outcomes,
        "lengths": [
            {
                "is_kept": is_kept,
                "min_characters": 2 ** (bits - 1) if bits else 0,
                "max_characters": 2**bits - 1,
                **_name_amount(amount),
            }
            for (is_kept, bits), amount in sorted(content.lengths.items())
        ],
        "languages": None
        if content.languages is None
        else [
            {"is_kept": is_kept, "language": language, **_name_amount(amount)}
            for (is_kept, language), amount in sorted(
                content.languages.items(), key=lambda item: (item[0][0], item[0][1] or "")
            )
        ],
        "clusters": [
            {"kind": kind, "documents_in_a_cluster": size, "clusters": number}
            for (kind, size), number in sorted(content.clusters.items())
        ],
        "tokens": {"unknown": counts}
        if isinstance(counts, str)
        else {"tokenizer": counts.tokenizer, "sampled_documents": counts.num_sampled},
    }
    return format_numbers(value)


def _name_amount(amount: Amount) -> dict[str, int]:
    return {"documents": amount.documents, "characters": amount.chars}


def are_settled(numbers: str, report_tokenizer: str | None) -> bool:
    """Whether a report with this setting would say the same: it has this format and this setting, and its
    tokens are known, or need no tokenizer. A tokenizer that could not be had may be there the next time."""
    value = parse_numbers(numbers)
    if (value.get("format"), value.get("report_tokenizer")) != (FORMAT, report_tokenizer):
        return False
    tokens = value.get("tokens")
    return report_tokenizer is None or (isinstance(tokens, dict) and "tokenizer" in tokens)


def read_numbers(text: str) -> Numbers:
    """What `write_numbers` wrote. Raises ValueError if it has another format, or was changed."""
    value = parse_numbers(text)
    if value.get("format") != FORMAT:
        raise ValueError(f"numbers of a report have format {FORMAT}, these {value.get('format')!r}; {_AGAIN}")
    try:
        return _read(value)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"numbers of a report were changed after they were written ({error!r}); {_AGAIN}"
        ) from error


def _read(value: Mapping[str, Any]) -> Numbers:
    languages = value["languages"]
    return Numbers(
        lengths={
            (each["is_kept"], int(each["max_characters"]).bit_length()): _read_amount(each)
            for each in value["lengths"]
        },
        languages=None
        if languages is None
        else {
            (each["is_kept"], each["language"] and str(each["language"])): _read_amount(each)
            for each in languages
        },
        clusters={
            (each["kind"], int(each["documents_in_a_cluster"])): int(each["clusters"])
            for each in value["clusters"]
        },
        tokens={
            each["drop_reason"]: Tokens(int(each["tokens"]), each["tokens_are_exact"])
            for each in value["outcomes"]
            if each["source"] is None and "tokens" in each
        },
    )


def _read_amount(group: Mapping[str, Any]) -> Amount:
    return Amount(int(group["documents"]), int(group["characters"]))
