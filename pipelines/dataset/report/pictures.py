"""Pictures of a run about its sequences: what fills them, lengths before and after packing, sources.

Numbers in, matplotlib figures out, see `charts.py`; the groups are those of the page. Import it only where a
picture is drawn: it loads matplotlib.
"""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, MultipleLocator, PercentFormatter

from pipelines.bars import format_bits, format_share
from pipelines.charts import BLUE, GREY, ORANGE
from pipelines.dataset.report.content import SPLITS, Documents, Sequences, pair_lengths
from pipelines.row_charts import name_rows, note_rows, open_figure

MAX_SOURCES = 30


def draw_places(
    splits: Mapping[str, Mapping[str, Any]],
    sequence_length: int,
    *,
    has_labels: bool,
    is_masked: bool = False,
    title: str,
) -> Figure:
    """What the places of the sequences hold, as a share of each split: targets, other tokens, padding.

    `splits`: the counts of the commit, see `build.COUNTS`. With labels, the targets are no tokens. If masked,
    they are the tokens that may be masked. Where rows of several texts are longer than sequence_length,
    nothing is padding.
    """
    names = [*(name for name in SPLITS if name in splits), *sorted(set(splits) - set(SPLITS))]
    figure, axes = open_figure(num_rows=len(names) + 2, title=title)  # rows for the legend
    shares, notes = [], []
    for name in names:
        own = splits[name]
        sequences, tokens, cut = (int(own[key]) for key in ("sequences", "tokens", "cut_tokens"))
        places = max(1, tokens, sequences * sequence_length)
        targets = 0 if has_labels else int(own["targets"])
        shares.append((targets / places, (tokens - targets) / places, (places - tokens) / places))
        notes.append(
            f"{sequences:,} sequences, {format_share(tokens, places)} filled\n"
            f"{tokens:,} tokens, {format_share(cut, tokens + cut)} cut off"
        )
    left = [0.0] * len(names)
    name_of_targets = "may be masked" if is_masked else "targets"
    for number, (label, colour) in enumerate(
        ((name_of_targets, BLUE), ("other tokens", ORANGE), ("padding", GREY))
    ):
        widths = [share[number] for share in shares]
        axes.barh(
            range(len(names)), widths, left=left, color=colour, label=label, alpha=0.3 if number == 2 else 1
        )
        left = [start + width for start, width in zip(left, widths, strict=True)]
    name_rows(axes, names)
    note_rows(axes, notes)
    axes.xaxis.set_major_locator(MultipleLocator(0.2))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set(xlabel="of sequences x sequence_length", xlim=(0, 1))
    figure.legend(loc="outside lower right", ncols=3, frameon=False, fontsize=8)
    return figure


def draw_lengths(
    documents: Mapping[int, Documents], sequences: Mapping[int, Sequences], *, title: str
) -> Figure:
    """Documents before packing and sequences after it, by number of tokens, each as a share of all."""
    groups = pair_lengths(documents, sequences)
    figure, axes = open_figure(num_rows=len(groups) * 2 + 1, title=title)  # two bars a group; the legend
    all_before = max(1, sum(before.documents for _, before, _ in groups))
    all_after = max(1, sum(after.sequences for _, _, after in groups))
    rows = range(len(groups))
    before_shares = [before.documents / all_before for _, before, _ in groups]
    after_shares = [after.sequences / all_after for _, _, after in groups]
    upper, lower = [row - 0.2 for row in rows], [row + 0.2 for row in rows]
    axes.barh(upper, before_shares, height=0.38, color=ORANGE, label="documents, before packing")
    axes.barh(lower, after_shares, height=0.38, color=BLUE, label="sequences, after packing")
    name_rows(axes, [format_bits(bits) for bits, _, _ in groups])
    note_rows(
        axes,
        [f"{before.documents:,} documents\n{after.sequences:,} sequences" for _, before, after in groups],
    )
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set(xlabel="of all documents, of all sequences", ylabel="tokens")
    figure.legend(loc="outside lower right", ncols=2, frameon=False, fontsize=8)
    return figure


def draw_sources(sources: Mapping[str, Documents], *, title: str) -> Figure:
    """Tokens by source, most first; the smallest together in the last row."""
    ranked = sorted(sources.items(), key=lambda item: (-item[1].tokens, item[0]))
    rows = ranked[:MAX_SOURCES]
    if rest := ranked[MAX_SOURCES:]:
        rows.append((f"{len(rest):,} other sources", sum((own for _, own in rest), Documents())))
    figure, axes = open_figure(num_rows=len(rows), title=title)
    axes.barh(range(len(rows)), [own.tokens for _, own in rows], color=BLUE)
    name_rows(axes, [name for name, _ in rows])
    total = sum(own.tokens for _, own in rows)
    note_rows(
        axes,
        [
            f"{own.tokens:,}  ({format_share(own.tokens, total)}, {own.documents:,} documents)"
            for _, own in rows
        ],
    )
    axes.set(xlabel="tokens", ylabel="source")
    return figure
