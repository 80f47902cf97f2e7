"""From records to kept documents, rule by rule: of the whole corpus, or of one source."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pipelines.bars import Line, Part, draw_legend, draw_table, format_share
from pipelines.corpus.decontamination import CONTAMINATED
from pipelines.corpus.neardup.presets import NEAR_DUPLICATE
from pipelines.corpus.report.content import COPY, Amount, Content, Tokens, format_tokens, order_reasons, total
from pipelines.corpus.rules import Rules
from pipelines.markup import Html, join, name, tag

_EXPLAINED = {
    "empty": "no text",
    CONTAMINATED: "it has a passage of an evaluation set",
    "language": "another language, or not sure enough",
    COPY: "the same text is kept elsewhere",
    NEAR_DUPLICATE: "almost the same text is kept elsewhere",
}
_LEGEND = (
    ("lost", "documents dropped"),
    ("lost2", "their characters"),
    ("rest", "left"),
    ("kept", "documents kept"),
    ("kept2", "their characters"),
)


def explain_reason(reason: str, rules: Rules) -> str:
    """The limit of a rule in words; empty for a rule that the configuration does not have."""
    if reason == "too_short":
        return f"at least {rules.min_chars:,} characters are kept"
    for limit in rules.limits:
        if limit.rule == reason:
            return f"at {'least' if limit.is_minimum else 'most'} {limit.threshold:,.6g} is kept"
    return _EXPLAINED.get(reason, "")


def draw_waterfall(
    content: Content, *, source: str | None = None, anchors: Mapping[str, str] | None = None
) -> Html:
    """One line per rule that dropped something, in the order of the rules; the others are named below.
    Removed paragraphs come first, because the rules see texts without them.

    `anchors`: reason -> id of the element that its name leads to.
    """
    found = content.count(source=source)
    reasons = order_reasons(content.rules, (reason for reason in found if reason is not None))
    dropping = [reason for reason in reasons if found.get(reason, Amount()).documents]
    steps = [*_list_losses(content, source), *_list_drops(content, source, dropping, anchors or {})]
    kept = _Step("kept", found.get(None, Amount()), content.count_tokens([None], source=source))
    whole = _Step("records read", total(step.amount for step in [*steps, kept]), _count_read(content, source))
    has_tokens = content.has_tokens
    lines, left = [_draw_end(whole, whole.amount, "rest", has_tokens)], whole.amount
    for step in steps:
        left -= step.amount
        lines.append(_draw_step(step, left, whole.amount, has_tokens))
    lines.append(_draw_end(kept, whole.amount, "kept", has_tokens))
    headers = ("", "documents", "characters", *(["tokens"] if has_tokens else []))
    table = draw_table(headers, lines, (whole.amount.documents, whole.amount.chars))
    others = [reason for reason in reasons if reason not in dropping]
    return join(draw_legend(*_LEGEND), table, _list_others(others, content.rules))


class _Step(NamedTuple):
    """A line: what goes, or what is there at the beginning or the end."""

    label: object
    amount: Amount
    tokens: Tokens | None = None
    has_chars: bool = True


def _list_losses(content: Content, source: str | None) -> list[_Step]:
    """What goes before the rules: broken records, and paragraphs."""
    steps = []
    if quarantined := sum(fault.num_records for fault in content.faults if source in (None, fault.source)):
        steps.append(_Step("quarantine", Amount(quarantined), has_chars=False))
    removed = content.count_removed(source=source)
    if removed["paragraphs"]:
        where = f"{removed['paragraphs']:,} in {removed['documents']:,} documents, which other documents have"
        label = join("paragraphs removed", tag("small", where))
        steps.append(_Step(label, Amount(0, removed["chars"]), _estimate_removed(content, source)))
    return steps


def _list_drops(
    content: Content, source: str | None, dropping: Sequence[str], anchors: Mapping[str, str]
) -> list[_Step]:
    found, steps = content.count(source=source), []
    for reason in dropping:
        label = name(reason)
        if reason in anchors:
            label = tag("a", label, href=f"#{anchors[reason]}")
        if explained := explain_reason(reason, content.rules):
            label = join(label, tag("small", explained))
        steps.append(_Step(label, found[reason], content.count_tokens([reason], source=source)))
    return steps


def _count_read(content: Content, source: str | None) -> Tokens | None:
    """Tokens of the documents with what was removed from them."""
    found, removed = (
        content.count_tokens(content.count(source=source), source=source),
        _estimate_removed(content, source),
    )
    if found is None or removed is None:
        return found
    return Tokens(found.number + removed.number, found.is_exact and not removed.number)


def _estimate_removed(content: Content, source: str | None) -> Tokens | None:
    """Removed paragraphs have as many tokens per character as what is left of the texts."""
    found = content.count(source=source)
    tokens, chars = content.count_tokens(found, source=source), total(found.values()).chars
    removed = content.count_removed(source=source)["chars"]
    return None if tokens is None else Tokens(round(tokens.number * removed / chars) if chars else 0)


def _draw_end(step: _Step, whole: Amount, colour: str, has_tokens: bool) -> Line:
    second = "kept2" if colour == "kept" else colour
    bars = ([Part(colour, 0, step.amount.documents)], [Part(second, 0, step.amount.chars)])
    return Line(step.label, _list_numbers(step, whole, has_tokens), bars, "strong")


def _draw_step(step: _Step, left: Amount, whole: Amount, has_tokens: bool) -> Line:
    bars = (
        [Part("rest", 0, left.documents), Part("lost", left.documents, step.amount.documents)],
        [Part("rest", 0, left.chars), Part("lost2", left.chars, step.amount.chars)],
    )
    return Line(step.label, _list_numbers(step, whole, has_tokens), bars)


def _list_numbers(step: _Step, whole: Amount, has_tokens: bool) -> list[object]:
    chars = _count(step.amount.chars, whole.chars) if step.has_chars else "-"
    tokens = [format_tokens(step.tokens)] if has_tokens else []
    return [_count(step.amount.documents, whole.documents), chars, *tokens]


def _count(part: int, whole: int) -> Html:
    return join(part, tag("small", format_share(part, whole)))


def _list_others(reasons: list[str], rules: Rules) -> Html:
    """The rules that dropped nothing."""
    if not reasons:
        return Html("")
    entries = (_describe(reason, rules) for reason in reasons)
    number = f"{len(reasons):,} rule{'s' if len(reasons) > 1 else ''} dropped nothing"
    return tag("details", tag("summary", number), tag("ul", *(tag("li", entry) for entry in entries)))


def _describe(reason: str, rules: Rules) -> Html:
    explained = explain_reason(reason, rules)
    return join(name(reason), f": {explained}" if explained else "")
