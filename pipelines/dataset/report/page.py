"""`Content` -> one HTML page that needs nothing else: no script, no network, no font.

Texts of documents and names are not trusted; see `pipelines/markup.py`. Equal content gives equal bytes.
"""

from pipelines.bars import Line, draw_legend, draw_table, format_bits, format_large, format_share, stack
from pipelines.dataset.report.content import (
    FULL,
    Content,
    Documents,
    Sequences,
    has_label_sets,
    pair_lengths,
    sum_by,
)
from pipelines.dataset.report.sample_page import draw_samples
from pipelines.markup import Html, join, name, page, tag
from pipelines.page_style import STYLE

MAX_SOURCES = 100
"""Sources that have a line of their own: those with most tokens."""
_SECTIONS = {
    "splits": "Splits",
    "lengths": "Lengths before and after packing",
    "fills": "How full the sequences are",
    "sources": "Tokens by source",
    "samples": "Samples",
    "tables": "Tables",
}
_NO_SEQUENCES = tag("p", "There are no sequences.", class_="soft")


def render(content: Content) -> str:
    """The page. Its meta elements name version and digest of the sequences."""
    sections = {
        "splits": _draw_splits(content),
        "lengths": _draw_lengths(content),
        "fills": _draw_fills(content),
        "sources": _draw_sources(content),
        "samples": draw_samples(content),
        "tables": _draw_tables(content),
    }
    body = join(
        _draw_head(content),
        tag("nav", *(tag("a", title, href=f"#{key}") for key, title in _SECTIONS.items())),
        *(tag("section", tag("h2", _SECTIONS[key], id=key), section) for key, section in sections.items()),
    )
    title = f"Sequences report: {content.title}"
    return page(title, STYLE, tag("main", body), content.tables[0].properties)


def _draw_head(content: Content) -> Html:
    found, documents, about = content.count(), content.count_documents(), content.tables[0]
    places, cut = content.count_places(), documents.cut
    facts: list[tuple[str, int, str]] = [
        ("sequences", found.sequences, f"of at most {content.sequence_length:,} tokens"),
        ("documents", documents.documents, f"in {documents.segments:,} segments"),
        ("tokens", found.tokens, f"fill {format_share(found.tokens, places)} of the sequences"),
        (_name_targets(content), found.targets, _explain_targets(content, found)),
        ("padding", places - found.tokens, f"{format_share(places - found.tokens, places)} of the places"),
        ("tokens cut off", cut, f"{format_share(cut, found.tokens + cut)} of all tokens"),
    ]
    cards = (
        tag("div", tag("dt", label), tag("dd", format_large(value), tag("small", note)))
        for label, value, note in facts
    )
    written = f", written {about.written}" if about.written else ""
    return join(
        tag("h1", "Sequences report: ", name(content.title)),
        tag(
            "p", f"Table sequences, version {about.version}{written}, for task {content.task}.", class_="soft"
        ),
        tag("dl", *cards, class_="facts"),
        tag(
            "p",
            "Padding is what would be needed if every sequence were padded to the full length; a training "
            "pads less, or nothing. Tokens cut off are those of documents that are longer than a sequence.",
            class_="soft",
        ),
    )


def _explain_targets(content: Content, found: Sequences) -> str:
    if has_label_sets(content.task):
        return f"any of {content.num_labels:,} classes for each sequence, or none"
    if content.num_labels:
        return f"one of {content.num_labels:,} classes for each sequence"
    if not content.has_token_targets:
        return "one for each sequence: which candidate answers its query"
    share = format_share(found.targets, found.tokens)
    if content.is_masked:
        return f"{share} of the tokens; a training masks finetune.mask_fraction of them"
    return f"{share} of the tokens count in the loss"


def _name_targets(content: Content) -> str:
    return "may be masked" if content.is_masked else "targets"


def _draw_splits(content: Content) -> Html:
    """Targets, other tokens and padding of each split; a bar is all places of a split."""
    if not content.splits:
        return _NO_SEQUENCES
    lines = []
    for split in content.splits:
        found, places = content.count(split), content.count_places(split)
        cut = content.count_documents(split).cut
        # A class is no token: then all tokens are input.
        targets = found.targets if content.has_token_targets else 0
        bar = stack(("kept", targets), ("kept2", found.tokens - targets), ("rest", places - found.tokens))
        numbers = (
            found.sequences,
            join(found.tokens, tag("small", format_share(found.tokens, places), " filled")),
            join(found.targets, tag("small", _share_targets(content, found))),
            join(places - found.tokens, tag("small", format_share(places - found.tokens, places))),
            join(cut, tag("small", format_share(cut, found.tokens + cut))),
            found.continued,
        )
        lines.append(Line(split, numbers, [bar], wholes=[places]))
    legend = draw_legend(("kept", _name_targets(content)), ("kept2", "other tokens"), ("rest", "padding"))
    headers = ("split", "sequences", "tokens", _name_targets(content), "padding", "cut off", "continued")
    note = tag(
        "p",
        "Continued are the segments whose document begins in another sequence: the model does not see what "
        "came before.",
        class_="soft",
    )
    return join(legend, draw_table(headers, lines, ()), note)


def _share_targets(content: Content, found: Sequences) -> str:
    if content.has_token_targets:
        return format_share(found.targets, found.tokens)
    return "classes" if content.num_labels else "candidates"


def _draw_lengths(content: Content) -> Html:
    """Documents above, sequences below, each as a share of its largest group."""
    groups = pair_lengths(*split_lengths(content))
    if not groups:
        return _NO_SEQUENCES
    lines = [
        Line(
            format_bits(bits),
            (before.documents, before.tokens + before.cut, after.sequences, after.tokens),
            [stack(("lost", before.documents)), stack(("kept", after.sequences))],
        )
        for bits, before, after in groups
    ]
    wholes = [
        max(before.documents for _, before, _ in groups),
        max(after.sequences for _, _, after in groups),
    ]
    intro = tag(
        "p",
        "Documents before packing, with the special tokens around them and what was cut off, and the "
        "sequences made of them, by number of tokens; each line is twice as long as the one before.",
    )
    legend = draw_legend(("lost", "documents, before packing"), ("kept", "sequences, after packing"))
    headers = ("tokens", "documents", "their tokens", "sequences", "their tokens")
    return join(intro, legend, draw_table(headers, lines, wholes))


def split_lengths(content: Content) -> tuple[dict[int, Documents], dict[int, Sequences]]:
    """By bits of the number of tokens: documents before packing, sequences after."""
    documents = sum_by((bits, own) for (_, _, bits), own in content.documents.items())
    return documents, sum_by((bits, own) for (_, bits), own in content.lengths.items())


def _draw_fills(content: Content) -> Html:
    """Sequences by the share of their places that has a token."""
    total = content.count().sequences
    if not total:
        return _NO_SEQUENCES
    numbers = [sum(n for (_, at), n in content.fills.items() if at == tenths) for tenths in range(FULL + 1)]
    labels = ["full", *(f"{tenths * 10} to {tenths * 10 + 9} %" for tenths in reversed(range(FULL)))]
    lines = [
        Line(label, (join(number, tag("small", format_share(number, total))),), [stack(("kept", number))])
        for label, number in zip(labels, reversed(numbers), strict=True)
    ]
    return draw_table(("places with a token", "sequences"), lines, (max(numbers),))


def _draw_sources(content: Content) -> Html:
    """Documents and tokens by source, most tokens first; a bar is the source with most tokens."""
    sources = rank_sources(content)
    if not sources:
        return _NO_SEQUENCES
    total = sum(own.tokens for _, own in sources)
    lines = [
        Line(name(source), _list_numbers(own, total), [stack(("kept", own.tokens))])
        for source, own in sources[:MAX_SOURCES]
    ]
    if rest := sources[MAX_SOURCES:]:
        others = sum((own for _, own in rest), Documents())
        lines.append(Line(f"{len(rest):,} other sources", _list_numbers(others, total)))
    headers = ("source", "documents", "tokens", "cut off", "segments")
    return draw_table(headers, lines, (sources[0][1].tokens,))


def _list_numbers(own: Documents, total: int) -> list[object]:
    tokens = join(own.tokens, tag("small", format_share(own.tokens, total)))
    cut = join(own.cut, tag("small", format_share(own.cut, own.tokens + own.cut)))
    return [own.documents, tokens, cut, own.segments]


def rank_sources(content: Content) -> list[tuple[str, Documents]]:
    """Source and its documents, most tokens first."""
    sums = sum_by((source, own) for (_, source, _), own in content.documents.items())
    return sorted(sums.items(), key=lambda item: (-item[1].tokens, item[0]))


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
        tag("p", "Tokenizer: ", tag("code", content.tokenizer), class_="meta"),
    )
