"""N-grams of evaluation sets in texts, compared with a slow twin (`twin.py`) and with cases made by hand."""

import random
from dataclasses import replace

import numpy as np
import pytest

from pipelines.corpus.decontamination import Decontamination
from pipelines.corpus.matching import evaluation, units
from pipelines.corpus.matching.contamination import MAX_EXCERPT_CHARS, find_contamination
from pipelines.corpus.matching.evaluation import build_index
from pipelines.corpus.source import Source
from tests.corpus.matching.twin import find_hits, find_owners

ENGLISH = [f"w{number:02}" for number in range(60)]
CHINESE = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳云腾致雨露结为霜"
MIXED = [*ENGLISH[:8], *CHINESE[:14]]
ODD = ["_", "__", "a", "b_", "_a", "a\u200db", "c\u00b4", "天", "_地_", "c", "d\ufe0f", "e_f", "g", "h"]
QUESTION = " ".join(ENGLISH[:13])
ZH_QUESTION = CHINESE[:22]


def decontamination(*names, **knobs):
    sets = tuple(
        Source(name=name, path=name, format="lines", fields={"text": "text"}) for name in names or ("e",)
    )
    return Decontamination(evaluation_sets=sets, **knobs)


def find(texts, records, settings=None):
    index = build_index(settings or decontamination(), records)
    return find_contamination([texts] if isinstance(texts, str) else texts, index)


def count_hits(found):
    return {(hit.evaluation_set, hit.record): hit.num_ngrams for hit in found.hits} if found else {}


def draw_text(draw, alphabet, glue, length):
    return glue.join(draw.choice(alphabet) for _ in range(length))


@pytest.mark.parametrize(
    ("alphabet", "glue"),
    [(ENGLISH, " "), (list(CHINESE), ""), (MIXED, " "), (["a", "b"], " "), (["天"], ""), (ODD, " ")],
)
@pytest.mark.parametrize("ngram", [5, 13])
def test_hits_equal_those_of_the_twin(alphabet, glue, ngram):
    draw = random.Random(ngram)
    settings = decontamination("one", "two", ngram=ngram, min_record_words=3, max_ngrams=2, max_fraction=0.1)
    records = [
        (place, f"r{number % 20}", draw_text(draw, alphabet, glue, draw.randrange(2, 40 if glue else 60)))
        for place in (0, 1)
        for number in range(25)
    ]
    texts = [draw_text(draw, alphabet, glue, draw.randrange(0, 50)) for _ in range(15)]
    for _ in range(40):  # a text with a piece of a record inside
        words = draw.choice(records)[2].split() if glue else list(draw.choice(records)[2])
        start = draw.randrange(0, len(words) // 3 + 1)
        middle = glue.join(words[start : start + draw.randrange(10, 50)])
        before, behind = (draw_text(draw, alphabet, glue, draw.randrange(0, 20)) for _ in range(2))
        texts.append(f"{before}, {middle}. {behind}")
    found, num_found, num_exceeding = find(texts, records, settings), 0, 0
    owners = find_owners(records, settings)
    for text, each in zip(texts, found, strict=True):
        hits, num_hits, num_ngrams = find_hits(text, *owners, settings)
        names = {(("one", "two")[place], name): count for (place, name), count in hits.items()}
        assert count_hits(each) == names
        exceeds = num_hits > 2 and num_hits > 0.1 * max(num_ngrams, num_hits)
        assert bool(each and each.exceeds) == exceeds
        num_found, num_exceeding = num_found + bool(hits), num_exceeding + exceeds
    assert num_found > 10, "a test without hits says nothing"
    assert num_exceeding > 5
    if len(alphabet) > 2:
        assert num_found < len(texts)


@pytest.mark.parametrize(
    ("text", "num_ngrams"),
    [
        (f"x {QUESTION} y", 1),
        (f"{QUESTION} w13", 1),
        (" ".join(ENGLISH[:12]), 0),
        (" ".join(ENGLISH[1:14]), 0),
        (QUESTION.upper().replace(" ", ", "), 1),
        (QUESTION.replace("w", "ｗ"), 1),
        (QUESTION.replace("w0", "\u200bw\u00ad0"), 1),
        (QUESTION.replace(" w05", "\u00b4w05\ufe0f"), 1),
        (QUESTION.replace(" w05", " ____ _w05_"), 1),
        (QUESTION.replace(" w05", "_w05"), 0),
        (QUESTION.replace("w06", "w6"), 0),
        (f"{QUESTION} and {QUESTION}", 2),
        ("", 0),
        ("...", 0),
    ],
)
def test_thirteen_words_in_a_row_are_a_hit(text, num_ngrams):
    (found,) = find(text, [(0, "q", QUESTION)])
    assert count_hits(found) == ({("e", "q"): num_ngrams} if num_ngrams else {})


@pytest.mark.parametrize(
    ("text", "num_ngrams"),
    [
        (f"甲{ZH_QUESTION}乙", 1),
        (CHINESE[:21], 0),
        (f"{CHINESE[:11]}，\n{CHINESE[11:22]}。", 1),
        (f"{CHINESE[:11]}甲{CHINESE[11:22]}", 0),
        (CHINESE[:30], 1),
    ],
)
def test_twenty_two_chinese_characters_are_a_hit(text, num_ngrams):
    (found,) = find(text, [(0, "q", ZH_QUESTION)])
    assert count_hits(found) == ({("e", "q"): num_ngrams} if num_ngrams else {})


def test_any_shared_passage_of_thirteen_words_is_found():
    passage = f"{' '.join(ENGLISH[20:27])} {CHINESE[:10]}"  # 7 words + 10 * 3/5 = 13
    (found,) = find(f"前文{passage}后文", [(0, "q", f"what is {passage} about")])
    assert count_hits(found) == {("e", "q"): 1}
    assert find(f"前文{passage[:-1]}后文", [(0, "q", f"what is {passage} about")]) == [None]


@pytest.mark.parametrize(
    ("record", "text", "is_found"),
    [
        (ENGLISH[:8], ENGLISH[:8], True),
        (ENGLISH[:8], ["x", *ENGLISH[:8], "y"], True),
        (ENGLISH[:7], ENGLISH[:20], False),  # fewer than min_record_words
        (ENGLISH[:12], ENGLISH[:11], False),
        (ENGLISH[:12], ENGLISH[:12], True),
        (ENGLISH[:12], [*ENGLISH[:10], "x", *ENGLISH[10:12]], False),
        ([CHINESE[:14]], [CHINESE[:20]], True),  # 14 * 3/5 = 8.4
        ([CHINESE[:13]], [CHINESE[:20]], False),  # 7.8
        ([CHINESE[:21]], [CHINESE[:20]], False),
    ],
)
def test_a_short_record_is_found_as_a_whole(record, text, is_found):
    (found,) = find(" ".join(text), [(0, "q", " ".join(record))])
    assert bool(found) == is_found


def test_short_records_that_begin_alike_are_told_apart():
    records = [(0, str(length), " ".join(ENGLISH[:length])) for length in range(6, 13)]
    index = build_index(decontamination("e", "f"), [*records, (1, "last", records[-1][2])])
    (found,) = find_contamination([" ".join(ENGLISH[:10])], index)
    assert count_hits(found) == {("e", "8"): 1, ("e", "9"): 1, ("e", "10"): 1}
    assert (index.num_records, index.too_short) == ((7, 1), (2, 0))


def test_a_shared_ngram_names_the_first_record_of_each_set():
    stem = " ".join(ENGLISH[:20])
    records = [(0, f"a{number}", f"{stem} a{number} b c") for number in range(100)] + [(1, "z", stem)]
    (found,) = find(stem, records, decontamination("e", "f"))
    assert count_hits(found) == {("e", "a0"): 8, ("f", "z"): 8}


def test_limits_say_what_a_kept_document_may_have():
    text = " ".join([*ENGLISH[:16], *(f"x{number}" for number in range(24))])  # 4 hits of 28 n-grams
    records = [(0, "q", " ".join(ENGLISH[:16]))]

    def exceeds(**knobs):
        (found,) = find(text, records, decontamination(**knobs))
        assert count_hits(found) == {("e", "q"): 4}
        return found.exceeds

    assert exceeds()
    assert exceeds(max_ngrams=3)
    assert exceeds(max_fraction=0.142)
    assert not exceeds(max_ngrams=4)
    assert not exceeds(max_fraction=4 / 28)
    assert not exceeds(max_ngrams=3, max_fraction=0.2)


def test_an_excerpt_is_the_first_hit():
    words = [f"{word}{'x' * 20}" for word in ENGLISH]
    (found,) = find(f"Before. {QUESTION.title()}! After.", [(0, "q", QUESTION)])
    assert found.hits[0].excerpt == QUESTION
    (found,) = find(" ".join(words), [(0, "q", " ".join(words[5:]))])
    assert found.hits[0].excerpt == " ".join(words[5:18])[:MAX_EXCERPT_CHARS]


@pytest.mark.parametrize("glue", [" ", ""])
def test_long_texts_are_searched_to_their_end(monkeypatch, glue):
    monkeypatch.setattr(units, "_CHUNK_CHARS", 256)
    monkeypatch.setattr(units, "_LOOK_BACK", 64)
    units._keep_powers.cache_clear()
    draw = random.Random(1)
    alphabet = ENGLISH if glue else list(CHINESE)
    text = draw_text(draw, alphabet, glue, 3_000)
    words = text.split(" ") if glue else list(text)
    records = [(0, str(start), glue.join(words[start : start + 22])) for start in range(0, 2_978, 7)]
    try:
        (found,) = find(text, records)
        near, far = find([text[:5_000], "nothing here"], records)
    finally:
        units._keep_powers.cache_clear()
    assert len(count_hits(found)) == len(records)
    length = 13 if glue else 22
    for hit in found.hits:
        start = int(hit.record)
        assert hit.excerpt in {glue.join(words[first : first + length]) for first in range(start, start + 10)}
    assert len(count_hits(near)) > 100
    assert far is None


def test_hits_do_not_depend_on_neighbours():
    draw = random.Random(2)
    texts = [draw_text(draw, ENGLISH[:4], " ", draw.randrange(60)) for _ in range(50)]
    records = [(0, str(number), draw_text(draw, ENGLISH[:4], " ", 9)) for number in range(50)]
    settings = decontamination(ngram=5, min_record_words=5)
    together = find(texts, records, settings)
    assert together == [found for text in texts for found in find(text, records, settings)]
    assert any(together)


def test_too_many_ngrams_are_refused(monkeypatch):
    monkeypatch.setattr(evaluation, "MAX_GRAMS", 48)
    find("", [(0, "q", " ".join(ENGLISH))])
    with pytest.raises(ValueError, match=r"more than 48 n-grams, which every task would hold; remove sets"):
        find("", [(0, "q", " ".join([*ENGLISH, "more"]))])


def test_an_index_without_records_finds_nothing():
    index = build_index(decontamination(), [])
    assert find_contamination([QUESTION], index) == [None]
    assert index.num_records == (0,)
    assert len(index.grams.hashes) == len(index.starts.hashes) == 0


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"ngram": 1, "min_record_words": 1}, "ngram must be from 2 to 1,000 words, got 1"),
        ({"min_record_words": 14}, "min_record_words must be from 1 to ngram = 13 words, got 14"),
        ({"max_ngrams": -1}, "max_ngrams must be at least 0, got -1"),
        ({"max_fraction": 1.5}, "max_fraction must be from 0 to 1, got 1.5"),
        ({"drop_from": ("train", "test")}, "got train, test; a test set is never decontaminated"),
        ({"drop_from": ()}, "drop_from must be one or both of train, validation"),
        ({"on_hit": "cut"}, "on_hit must be one of drop, report, got cut"),
    ],
)
def test_wrong_settings_are_named(knobs, message):
    with pytest.raises(ValueError, match=message):
        decontamination(**knobs)


def test_two_sets_of_one_name_are_refused():
    with pytest.raises(ValueError, match="repeated: e; rename all but one"):
        decontamination("e", "e")


def test_report_drops_nothing():
    settings = decontamination()
    assert settings.drops
    assert not replace(settings, on_hit="report").drops
    assert not Decontamination().enabled
    assert not Decontamination().drops


def test_hashes_of_runs_differ_by_order_and_length():
    hashes = np.array([1, 2, 1, 2, 0, 0], np.uint64)
    first, end = np.array([0, 2, 1, 0, 4, 4]), np.array([2, 4, 3, 4, 5, 6])
    one, again, turned, longer, zero, zeros = units.hash_runs(hashes, first, end).tolist()
    assert one == again
    assert len({one, turned, longer, zero, zeros}) == 5
