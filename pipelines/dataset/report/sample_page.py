"""Samples of a report as HTML: token by token, targets coloured and underlined, a block for each segment."""

from pipelines.dataset.report.content import Content, Piece, Sample, SampleSegment
from pipelines.dataset.report.samples import SAMPLE_TOKENS
from pipelines.markup import Html, join, tag

_VISIBLE = str.maketrans({"\n": "\u21b5\n", "\r": "\u240d", "\t": "\u21e5\t"})
"""Marks for what cannot be seen; the line breaks and tabs stay."""


def draw_samples(content: Content) -> Html:
    """Every sample with its segments."""
    if not content.samples:
        return tag("p", "There are no sequences.", class_="soft")
    shown = f" Of a longer sequence, {SAMPLE_TOKENS:,} tokens are shown."
    intro = tag(
        "p",
        "Tokens as the tokenizer of the table decodes them, with a line before each; tokens that only "
        "together make a character stand together. A hash of the number chooses, so equal tables show equal "
        f"samples.{shown}",
    )
    target, target_role, token_role = "target", "counts in the loss", "is input only"
    if content.is_masked:
        target, target_role, token_role = (
            "token",
            "may be masked; a training masks finetune.mask_fraction of these",
            "is never masked",
        )
    legend = tag(
        "p",
        _draw_piece(Piece(target, (), is_target=True)),
        f" {target_role} \u00a0 ",
        _draw_piece(Piece("token", ())),
        f" {token_role} \u00a0 ",
        _draw_piece(Piece("special", (), is_special=True)),
        " special token \u00a0 ",
        _draw_piece(Piece("E6 88", (), is_name=True)),
        " bytes of a part of a character, or a token without text",
        class_="tokens soft",
    )
    return join(
        intro, legend, *(_draw_sample(sample, is_masked=content.is_masked) for sample in content.samples)
    )


def _draw_sample(sample: Sample, *, is_masked: bool) -> Html:
    kind = "that may be masked" if is_masked else "targets"
    targets = "1 class as target" if sample.label is not None else f"{sample.num_targets:,} {kind}"
    if sample.label_set is not None:
        targets = f"{len(sample.label_set):,} class{'' if len(sample.label_set) == 1 else 'es'} as target"
    segments = f"{sample.num_segments:,} segment{'' if sample.num_segments == 1 else 's'}"
    facts = [f"{sample.num_tokens:,} tokens", targets, segments]
    parts: list[object] = [
        tag("h3", f"{sample.split}, sequence {sample.sequence_id}"),
        tag("p", " \u00b7 ".join(facts), class_="meta"),
    ]
    if sample.label is not None:
        parts.append(tag("p", "Class: ", tag("u", sample.label, class_="target"), class_="tokens"))
    for name in sample.label_set or ():
        parts.append(tag("p", "Class: ", tag("u", name, class_="target"), class_="tokens"))
    parts += [_draw_left_out(sample.first_token, "before")]
    parts += map(_draw_segment, sample.segments)
    parts += [_draw_left_out(sample.num_tokens - sample.first_token - sample.num_shown, "more")]
    return tag("article", *parts, class_="example")


def _draw_left_out(number: int, where: str) -> Html:
    return tag("p", f"\u2026 {number:,} tokens {where}", class_="meta") if number else Html("")


def _draw_segment(segment: SampleSegment) -> Html:
    end = segment.first_token + segment.num_tokens
    characters = f"characters {segment.char_start:,} to {segment.char_end:,}"
    if not segment.char_end:
        characters = "no character of its text"
    place = f" \u00b7 tokens {segment.first_token:,} to {end:,} \u00b7 {characters}"
    heading = tag("p", "document ", tag("code", segment.doc_id), place, class_="meta")
    text = tag("pre", *map(_draw_piece, segment.pieces), dir="auto", class_="tokens")
    return tag("div", heading, text, class_="segment")


def _draw_piece(piece: Piece) -> Html:
    """Targets are `u`, which is underlined without a style sheet too."""
    kinds = [
        kind
        for kind, applies in (
            ("target", piece.is_target),
            ("special", piece.is_special),
            ("name", piece.is_name),
        )
        if applies
    ]
    ids = f"id {' '.join(map(str, piece.ids))}" if piece.ids else None
    element = "u" if piece.is_target else "span"
    return tag(element, piece.text.translate(_VISIBLE), class_=" ".join(kinds) or None, title=ids)
