"""`Content` -> one HTML page that needs nothing else: no script, no network, no font.

Text of documents, names and addresses are not trusted; see `markup.py`. Equal content gives equal bytes.
"""

from collections.abc import Mapping

from pipelines.bars import Line, draw_table, format_large, format_share
from pipelines.corpus.report import histograms
from pipelines.corpus.report.content import (
    EXAMPLE_CHARS,
    Content,
    Example,
    format_tokens,
    order_reasons,
    total,
)
from pipelines.corpus.report.waterfall import draw_waterfall, explain_reason
from pipelines.markup import Html, join, name, page, tag
from pipelines.page_style import STYLE

MAX_SOURCES = 100
"""Sources that get a section of their own: the largest."""
_SECTIONS = {
    "rules": "What the rules dropped",
    "sources": "Sources",
    "lengths": "Lengths",
    "languages": "Languages",
    "duplicates": "Duplicates",
    "evaluation": "Evaluation sets",
    "quarantine": "Quarantine",
    "examples": "Examples of what was dropped",
    "tables": "Tables",
}


def render(content: Content) -> str:
    """The page. Its meta elements name version and digest of the documents."""
    documents = content.tables[0]
    sections = {
        "rules": _draw_rules(content),
        "sources": _draw_sources(content),
        "lengths": histograms.draw_lengths(content),
        "languages": histograms.draw_languages(content),
        "duplicates": histograms.draw_duplicates(content),
        "evaluation": histograms.draw_evaluation_sets(content),
        "quarantine": histograms.draw_quarantine(content),
        "examples": _draw_examples(content),
        "tables": _draw_tables(content),
    }
    body = join(
        _draw_head(content),
        tag("nav", *(tag("a", title, href=f"#{key}") for key, title in _SECTIONS.items())),
        *(tag("section", tag("h2", _SECTIONS[key], id=key), section) for key, section in sections.items()),
    )
    return page(f"Corpus report: {content.title}", STYLE, tag("main", body), documents.properties)


def _draw_head(content: Content) -> Html:
    documents, found = content.tables[0], content.count()
    everything, kept = total(found.values()), found.get(None)
    num_kept, kept_chars = (kept.documents, kept.chars) if kept else (0, 0)
    records = everything.documents + content.quarantined
    quarantined = format_share(content.quarantined, records)
    num_sources = f"{len(content.sources):,} source{'' if len(content.sources) == 1 else 's'}"
    facts: list[tuple[str, int | str, str]] = [
        ("records read", records, num_sources),
        ("in quarantine", content.quarantined, quarantined),
        ("documents kept", num_kept, f"{format_share(num_kept, everything.documents)} of all documents"),
        ("characters kept", kept_chars, f"{format_share(kept_chars, everything.chars)} of all characters"),
    ]
    if content.has_tokens:
        of_kept, of_all = content.count_tokens([None]), content.count_tokens(found)
        assert of_kept
        assert of_all
        share = format_share(of_kept.number, of_all.number)
        shown = of_kept.number if of_kept.is_exact else format_tokens(of_kept)
        facts.append(("tokens kept", shown, f"about {share} of all tokens"))
    if content.tokens is not None:
        by_split = ", ".join(f"{split} {tokens:,}" for split, tokens in sorted(content.tokens.items()))
        facts.append(("tokens in sequences", sum(content.tokens.values()), by_split))
    cards = (
        tag("div", tag("dt", label), tag("dd", _shorten(value), tag("small", note)))
        for label, value, note in facts
    )
    written = f", written {documents.written}" if documents.written else ""
    head = [
        tag("h1", "Corpus report: ", name(content.title)),
        tag("p", f"Table documents, version {documents.version}{written}.", class_="soft"),
        tag("dl", *cards, class_="facts"),
    ]
    return join(*head, tag("p", _explain_tokens(content), class_="soft"))


def _shorten(value: int | str) -> str:
    return value if isinstance(value, str) else format_large(value)


def _explain_tokens(content: Content) -> str:
    counts = content.token_counts
    if isinstance(counts, str):
        return counts
    where = "Numbers without \u201cabout\u201d are exact, from table sequences. " if counts.kept else ""
    return (
        f"Tokens are those of the {counts.tokenizer}. {where}\u201cAbout\u201d is an estimate: characters "
        f"times tokens per character of {counts.num_sampled:,} documents, which a hash of doc_id chooses for "
        "each source and reason."
    )


def _draw_rules(content: Content) -> Html:
    intro = tag(
        "p",
        "Rules are tried in this order; the first that a document fails is its reason. Limits are those of "
        "the present configuration.",
    )
    return join(intro, draw_waterfall(content, anchors=_number_reasons(content)))


def _number_reasons(content: Content) -> Mapping[str, str]:
    """Reason -> id of its examples."""
    reasons = order_reasons(content.rules, content.examples)
    shown = [reason for reason in reasons if content.examples.get(reason)]
    return {reason: f"example-{number}" for number, reason in enumerate(shown, start=1)}


def _draw_sources(content: Content) -> Html:
    sizes = {source: total(content.count(source=source).values()) for source in content.sources}
    if not sizes:
        return tag("p", "No source has a record.", class_="soft")
    largest = sorted(sizes, key=lambda source: (-sizes[source].documents, source))
    parts = [histograms.draw_source_table(content, largest)]
    if len(largest) > 1:
        parts += [
            tag(
                "details",
                tag("summary", "Rules in source ", name(source)),
                draw_waterfall(content, source=source),
            )
            for source in largest[:MAX_SOURCES]
        ]
    if len(largest) > MAX_SOURCES:
        parts.append(tag("p", f"The rules of the {MAX_SOURCES} largest sources are shown.", class_="soft"))
    return join(*parts)


def _draw_examples(content: Content) -> Html:
    anchors = _number_reasons(content)
    if not anchors:
        return tag("p", "No rule dropped a document.", class_="soft")
    parts: list[object] = [
        tag(
            "p",
            f"The first {EXAMPLE_CHARS} characters of a few documents of each reason, as table documents "
            "holds them. A hash of doc_id chooses, so equal tables show equal examples. Addresses are shown "
            "without their query.",
        )
    ]
    for reason, anchor in anchors.items():
        heading = tag("h3", name(reason), id=anchor)
        explained = tag("p", explain_reason(reason, content.rules), class_="soft")
        parts += [heading, explained, *map(_draw_example, content.examples[reason])]
    return join(*parts)


def _draw_example(example: Example) -> Html:
    cut = "\u2026" if example.num_chars > len(example.text) else ""
    place = f"{example.source} \u00b7 {example.file} \u00b7 offset {example.offset:,}"
    meta = [tag("p", f"{place} \u00b7 {example.num_chars:,} characters", class_="meta")]
    if example.url:
        meta.append(tag("p", example.url, class_="meta"))
    copied = f" \u00b7 stays as {example.duplicate_of}" if example.duplicate_of else ""
    meta.append(tag("p", tag("code", example.doc_id), copied, class_="meta"))
    text = example.text + cut if example.text else "(empty)"
    return tag("article", tag("pre", text, dir="auto"), *meta, class_="example")


def _draw_tables(content: Content) -> Html:
    lines = [
        Line(
            table.name,
            (
                tag("span", str(table.version)),
                table.num_rows,
                table.written or "-",
                tag("code", table.digest),
            ),
        )
        for table in content.tables
    ]
    return join(
        tag("p", "The rows that were counted. A digest is the same for equal rows, whatever wrote them."),
        draw_table(("table", "version", "rows", "written", "digest"), lines, ()),
    )
