"""Histograms of a report: sources, lengths, languages, clusters of duplicates, quarantine."""

from collections.abc import Sequence

from pipelines.bars import Line, draw_legend, draw_table, format_share, stack
from pipelines.corpus.neardup.presets import NEAR_DUPLICATE
from pipelines.corpus.quarantine import choose_remedy
from pipelines.corpus.report.bins import Pair, group_clusters, group_languages, group_lengths
from pipelines.corpus.report.content import COPY, Amount, Content, Fault, format_tokens, total
from pipelines.markup import Html, join, name, tag

_LEGEND = (("kept", "kept"), ("lost", "dropped"))
_NO_DOCUMENTS = tag("p", "There are no documents.", class_="soft")
_KINDS = {COPY: "Exact copies", NEAR_DUPLICATE: "Near duplicates"}


def draw_source_table(content: Content, sources: Sequence[str]) -> Html:
    """Records (with those in quarantine) and what is kept, by source; a bar is a whole source."""
    lines = []
    for source in sources:
        found = content.count(source=source)
        kept, dropped = (
            found.get(None, Amount()),
            total(a for reason, a in found.items() if reason is not None),
        )
        broken = sum(fault.num_records for fault in content.faults if fault.source == source)
        records = kept.documents + dropped.documents + broken
        bar = stack(("kept", kept.documents), ("lost", dropped.documents), ("lost2", broken))
        share = format_share(kept.documents, kept.documents + dropped.documents)
        numbers = (
            join(records, tag("small", f"{broken:,} broken")) if broken else records,
            join(kept.documents, tag("small", share)),
            kept.chars,
            *([format_tokens(content.count_tokens([None], source=source))] if content.has_tokens else []),
        )
        lines.append(Line(name(source), numbers, [bar], wholes=[records]))
    headers = (
        "source",
        "records",
        "kept",
        "characters kept",
        *(["tokens kept"] if content.has_tokens else []),
    )
    legend = draw_legend(*_LEGEND, ("lost2", "broken, in quarantine"))
    return join(legend, draw_table(headers, lines, ()))


def draw_lengths(content: Content) -> Html:
    """Documents by number of characters; each line is twice as long as the one before."""
    groups = group_lengths(content.lengths)
    return _draw_pairs("characters", groups) if groups else _NO_DOCUMENTS


def draw_languages(content: Content) -> Html:
    """Documents by language, most frequent first."""
    if content.languages is None:
        return tag(
            "p",
            "Languages were not measured; corpus.rules.languages names those to keep, and measures.",
            class_="soft",
        )
    groups = group_languages(content.languages)
    return _draw_pairs("language", groups) if groups else _NO_DOCUMENTS


def _draw_pairs(header: str, groups: Sequence[tuple[str, Pair]]) -> Html:
    lines = [
        Line(
            label,
            (kept.documents, dropped.documents, kept.chars),
            [stack(("kept", kept.documents), ("lost", dropped.documents))],
        )
        for label, (kept, dropped) in groups
    ]
    whole = max((kept + dropped).documents for _, (kept, dropped) in groups)
    headers = (header, "kept", "dropped", "characters kept")
    return join(draw_legend(*_LEGEND), draw_table(headers, lines, (whole,)))


def draw_duplicates(content: Content) -> Html:
    """Clusters by their number of texts, exact and near ones."""
    parts: list[object] = []
    for kind, title in _KINDS.items():
        sizes = {size: number for (found, size), number in content.clusters.items() if found == kind}
        parts.append(tag("h3", title))
        if sizes:
            parts.append(_draw_clusters(sizes))
        elif kind == NEAR_DUPLICATE and not content.searched:
            parts.append(
                tag("p", "They were not looked for: corpus.near_duplicates.enabled is false.", class_="soft")
            )
        else:
            parts.append(tag("p", "There are none.", class_="soft"))
    return join(*parts)


def _draw_clusters(sizes: dict[int, int]) -> Html:
    groups = group_clusters(sizes)
    lines = [Line(label, (clusters, texts), [stack(("kept", clusters))]) for label, clusters, texts in groups]
    headers = ("documents in a cluster", "clusters", "documents")
    return draw_table(headers, lines, (max(clusters for _, clusters, _ in groups),))


def draw_evaluation_sets(content: Content) -> Html:
    """How many records of each evaluation set the documents have; a bar is a whole set."""
    if not content.contamination:
        return tag(
            "p", "They were not looked for: corpus.decontamination names no evaluation set.", class_="soft"
        )
    lines = []
    for own, counts in sorted(content.contamination.items()):
        records, hit, skipped = counts["records"], counts["records_hit"], counts["too_short"]
        short = tag("small", f"{skipped:,} too short to look for") if skipped else ""
        dropped = tag("small", f"{counts['exceeding']:,} above the limits")
        numbers = (join(records, short), hit, join(counts["documents"], dropped))
        bar = stack(("lost", hit), ("rest", records - hit - skipped), ("lost2", skipped))
        lines.append(Line(name(own), numbers, [bar], wholes=[records]))
    legend = draw_legend(("lost", "found in documents"), ("rest", "not found"), ("lost2", "too short"))
    headers = ("evaluation set", "records", "found", "documents that have them")
    intro = tag("p", "Table contamination names each document and record, with an excerpt.")
    return join(intro, legend, draw_table(headers, lines, ()))


def draw_quarantine(content: Content) -> Html:
    """Broken records by source and reason, with the place of the first and what to do."""
    if not content.faults:
        return tag("p", "No record is in quarantine.", class_="soft")
    largest = max(fault.num_records for fault in content.faults)
    lines = [
        Line(_describe_fault(fault), (fault.num_records,), [stack(("lost", fault.num_records))])
        for fault in content.faults
    ]
    intro = tag(
        "p", "Records that could not become documents. Their content is not shown here; see the table."
    )
    return join(intro, draw_table(("source and reason", "records"), lines, (largest,)))


def _describe_fault(fault: Fault) -> Html:
    remedy = tag("small", choose_remedy(fault.kind))
    place = tag("small", f"first: {fault.file} @ {fault.offset:,}", class_="place")
    return join(name(fault.source), ": ", fault.kind, remedy, place)
