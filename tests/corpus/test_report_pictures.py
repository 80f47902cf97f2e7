"""Pictures of a report are checked by their texts and bars, not by pixels. What a run shows of its corpus."""

import io

import pytest

from pipelines.corpus.presets import PRESETS
from pipelines.corpus.report import pictures
from pipelines.corpus.report.content import COPY, Amount, Tokens
from pipelines.corpus.rules import Rules
from pipelines.row_charts import MAX_NAME


def test_drops_stand_in_their_order_with_what_is_left():
    figure = pictures.draw_drops(20, {"quarantine": 4, "language": 6}, title="t")
    axes = figure.axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [
        "records read",
        "quarantine",
        "language",
        "kept",
    ]
    bars = [(bar.get_x(), bar.get_width()) for bar in axes.patches]
    assert bars == [(0, 20), (0, 16), (16, 4), (0, 10), (10, 6), (0, 10)]
    assert [text.get_text() for text in axes.texts] == ["20  (100 %)", "4  (20 %)", "6  (30 %)", "10  (50 %)"]


def test_drops_of_nothing_can_be_drawn():
    figure = pictures.draw_drops(0, {}, title="t")
    figure.savefig(io.BytesIO())
    assert [text.get_text() for text in figure.axes[0].texts] == ["0  (-)", "0  (-)"]


def list_names(figure):
    return [tick.get_text() for tick in figure.axes[0].get_yticklabels()]


def list_notes(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def list_bars(figure):
    return [(bar.get_x(), round(bar.get_y() + 0.4), bar.get_width()) for bar in figure.axes[0].patches]


def test_tokens_are_written_behind_their_documents():
    tokens = {"language": Tokens(1_234), None: Tokens(98_765, is_exact=True)}
    figure = pictures.draw_drops(20, {"quarantine": 4, "language": 6}, title="t", tokens=tokens)
    assert list_notes(figure)[1:] == [
        "4  (20 %)",
        "6  (30 %)\nabout 1,230 tokens",
        "10  (50 %)\n98,765 tokens",
    ]


def test_lengths_show_kept_and_dropped_in_order_without_gaps():
    lengths = {(True, 5): Amount(3, 60), (False, 5): Amount(2, 40), (False, 3): Amount(1, 5)}
    figure = pictures.draw_lengths(lengths, title="t")
    assert list_names(figure) == ["4 to 7", "8 to 15", "16 to 31"]
    assert list_bars(figure) == [(0, 0, 0), (0, 1, 0), (0, 2, 3), (0, 0, 1), (0, 1, 0), (3, 2, 2)]
    assert list_notes(figure)[-1] == "3 kept, 2 dropped"


def test_languages_show_the_most_frequent_first():
    languages = {(True, "zh"): Amount(5, 50), (False, "en"): Amount(7, 70), (False, None): Amount(1, 0)}
    figure = pictures.draw_languages(languages, title="t")
    assert list_names(figure) == ["en", "zh", "(no text)"]


def test_clusters_have_a_row_for_each_kind_and_size():
    clusters = {(COPY, 2): 7, (COPY, 6): 1, (COPY, 8): 1, ("near_duplicate", 3): 2}
    figure = pictures.draw_clusters(clusters, title="t")
    assert list_names(figure) == ["exact copies, 2", "exact copies, 5 to 8", "near duplicates, 3"]
    assert list_notes(figure) == ["7  (14 documents)", "2  (14 documents)", "2  (6 documents)"]


def test_names_of_rules_stay_different():
    rules = Rules(languages=("en",), presets=tuple(PRESETS))
    names = [limit.rule for limit in rules.limits]
    figure = pictures.draw_drops(len(names), dict.fromkeys(names, 1), title="t")
    assert max(map(len, names)) > MAX_NAME  # so some lose their middle
    assert len(set(list_names(figure))) == len({*names}) + 2


def test_names_without_a_font_become_numbers_of_rows():
    # U+10FFFE is a non-character: no font may have it.
    figure = pictures.draw_drops(9, {"word_list/\U0010fffe": 1, "language": 2}, title="t")
    assert list_names(figure) == ["records read", "(row 2)", "language", "kept"]
    figure.savefig(io.BytesIO())


@pytest.mark.parametrize("num", [1, 2, 45])
def test_pictures_of_any_size_stay_small(num):
    lengths = {(True, bits): Amount(10**9 + bits, 10**12) for bits in range(num)}
    reasons = {f"fineweb/{number:02}_of_a_rule_with_a_long_name": 10**6 for number in range(num)}
    tokens = dict.fromkeys([*reasons, None], Tokens(10**12 + 3))
    drawn = [
        pictures.draw_lengths(lengths, title="t"),
        pictures.draw_languages(
            {(True, f"l{number}"): Amount(number, 1) for number in range(num)}, title="t"
        ),
        pictures.draw_clusters({(COPY, 2**number): 10**6 for number in range(1, num + 1)}, title="t"),
        pictures.draw_drops(10**9, reasons, title="t", tokens=tokens),
    ]
    for figure in drawn:
        buffer = io.BytesIO()
        figure.savefig(buffer)
        assert buffer.getvalue().startswith(b"\x89PNG")
        assert len(buffer.getvalue()) < 400_000
