"""The counts of a report as pictures of a run: waterfall, lengths, languages, sizes of clusters.

Numbers in, matplotlib figures out, see `charts.py`; the groups are those of the page. Import it only where a
picture is drawn: it loads matplotlib.
"""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from pipelines.bars import format_share
from pipelines.charts import BLUE, GREY, ORANGE
from pipelines.corpus.neardup.presets import NEAR_DUPLICATE
from pipelines.corpus.report.bins import Pair, group_clusters, group_languages, group_lengths
from pipelines.corpus.report.content import COPY, Amount, Tokens, format_tokens
from pipelines.row_charts import name_rows, note_rows, open_figure

_KINDS = {COPY: "exact copies", NEAR_DUPLICATE: "near duplicates"}


def draw_drops(
    records: int, dropped: Mapping[str, int], *, title: str, tokens: Mapping[str | None, Tokens] | None = None
) -> Figure:
    """A waterfall: records, how many each reason takes away, in the order of `dropped`, and what is left.

    `tokens`: of a reason (None = of what is kept); written behind its documents.
    """
    figure, axes = open_figure(num_rows=len(dropped) + 2, title=title)
    left = records
    axes.barh(0, records, color=GREY, alpha=0.5)
    for row, count in enumerate(dropped.values(), start=1):
        left -= count
        axes.barh(row, left, color=GREY, alpha=0.2)
        axes.barh(row, count, left=left, color=ORANGE)
    axes.barh(len(dropped) + 1, left, color=BLUE)
    name_rows(axes, ["records read", *dropped, "kept"])
    reasons: list[str | None] = [*dropped, None]
    own = [None, *((tokens or {}).get(reason) for reason in reasons)]
    note_rows(
        axes,
        [
            _describe(count, records) + (f"\n{format_tokens(of)} tokens" if of else "")
            for count, of in zip([records, *dropped.values(), left], own, strict=True)
        ],
    )
    axes.set(xlabel="documents", xlim=(0, max(1, records)))
    return figure


def _describe(count: int, whole: int) -> str:
    return f"{count:,}  ({format_share(count, whole)})"


def draw_lengths(lengths: Mapping[tuple[bool, int], Amount], *, title: str) -> Figure:
    """Documents, kept and dropped, by number of characters."""
    return _draw_pairs(group_lengths(lengths), title, "characters")


def draw_languages(languages: Mapping[tuple[bool, str | None], Amount], *, title: str) -> Figure:
    """Documents, kept and dropped, by language, most frequent first."""
    return _draw_pairs(group_languages(languages), title, "language")


def _draw_pairs(groups: Sequence[tuple[str, Pair]], title: str, ylabel: str) -> Figure:
    figure, axes = open_figure(num_rows=len(groups) + 1, title=title)  # a row for the legend
    rows = range(len(groups))
    kept = [own.documents for _, (own, _) in groups]
    dropped = [own.documents for _, (_, own) in groups]
    axes.barh(rows, kept, color=BLUE, label="kept")
    axes.barh(rows, dropped, left=kept, color=ORANGE, label="dropped")
    name_rows(axes, [label for label, _ in groups])
    note_rows(axes, [f"{a:,} kept, {b:,} dropped" for a, b in zip(kept, dropped, strict=True)])
    axes.set(xlabel="documents", ylabel=ylabel)
    figure.legend(loc="outside lower right", ncols=2, frameon=False, fontsize=8)
    return figure


def draw_clusters(clusters: Mapping[tuple[str, int], int], *, title: str) -> Figure:
    """Clusters of exact copies, and of near duplicates, by number of documents."""
    rows = []
    for kind, label in _KINDS.items():
        sizes = {size: number for (found, size), number in clusters.items() if found == kind}
        rows += [(f"{label}, {name}", number, texts) for name, number, texts in group_clusters(sizes)]
    figure, axes = open_figure(num_rows=len(rows), title=title)
    axes.barh(range(len(rows)), [number for _, number, _ in rows], color=BLUE)
    name_rows(axes, [label for label, _, _ in rows])
    note_rows(axes, [f"{number:,}  ({texts:,} documents)" for _, number, texts in rows])
    axes.set(xlabel="clusters", ylabel="documents in a cluster")
    return figure
