"""From records to kept documents, rule by rule: of the whole corpus, or of one source."""

from collections.abc import Mapping

from pipelines.corpus.decontamination import CONTAMINATED
from pipelines.corpus.neardup.presets import NEAR_DUPLICATE
from pipelines.corpus.report.bars import Line, Part, draw_legend, draw_table, format_share
from pipelines.corpus.report.content import COPY, Amount, Content, order_reasons, total
from pipelines.corpus.report.markup import Html, join, name, tag
from pipelines.corpus.rules import Rules

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
    faults = (fault.num_records for fault in content.faults if source in (None, fault.source))
    quarantined, documents = sum(faults), total(found.values())
    removed = content.count_removed(source=source)
    documents += Amount(0, removed["chars"])
    records = documents + Amount(quarantined)
    reasons = order_reasons(content.rules, (reason for reason in found if reason is not None))
    dropping = [reason for reason in reasons if found.get(reason, Amount()).documents]
    lines = [_draw_end("records read", records, documents, records, "rest")]
    if quarantined:
        left = Amount(documents.documents, documents.chars)
        lines.append(_draw_step("quarantine", "", Amount(quarantined), left, records, "-"))
    left = documents - Amount(0, removed["chars"])
    if removed["paragraphs"]:
        told = f"{removed['paragraphs']:,} in {removed['documents']:,} documents, which other documents have"
        lines.append(_draw_step("paragraphs removed", told, documents - left, left, records))
    for reason in dropping:
        left -= found[reason]
        label = name(reason)
        if anchors and reason in anchors:
            label = tag("a", label, href=f"#{anchors[reason]}")
        lines.append(_draw_step(label, explain_reason(reason, content.rules), found[reason], left, records))
    lines.append(_draw_end("kept", found.get(None, Amount()), left, records, "kept"))
    table = draw_table(("", "documents", "characters"), lines, (records.documents, records.chars))
    others = [reason for reason in reasons if reason not in dropping]
    return join(draw_legend(*_LEGEND), table, _list_others(others, content.rules))


def _draw_end(label: str, shown: Amount, left: Amount, whole: Amount, colour: str) -> Line:
    second = "kept2" if colour == "kept" else colour
    bars = ([Part(colour, 0, shown.documents)], [Part(second, 0, left.chars)])
    numbers = (_count(shown.documents, whole.documents), _count(shown.chars, whole.chars))
    return Line(label, numbers, bars, "strong")


def _draw_step(
    label: object, explained: str, lost: Amount, left: Amount, whole: Amount, chars: object = None
) -> Line:
    bars = (
        [Part("rest", 0, left.documents), Part("lost", left.documents, lost.documents)],
        [Part("rest", 0, left.chars), Part("lost2", left.chars, lost.chars)],
    )
    written = join(label, tag("small", explained)) if explained else label
    second = _count(lost.chars, whole.chars) if chars is None else chars
    return Line(written, (_count(lost.documents, whole.documents), second), bars)


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
