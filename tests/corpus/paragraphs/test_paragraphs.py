"""Repeated paragraphs: single cases by hand, and random corpora against a twin that compares all with all."""

import random
from hashlib import sha256

import pytest

from pipelines.corpus.ids import content_hash
from pipelines.corpus.paragraphs.edit import edit_text
from pipelines.corpus.paragraphs.pieces import hash_pieces, leave_out, split_text
from pipelines.corpus.paragraphs.select import Sightings, find_copied, pack_place
from pipelines.corpus.paragraphs.settings import Paragraphs
from tests.corpus.paragraphs.twin import ORDER, Document, deduplicate

MENU, POEM, RULES = (
    "Home | About us | Contact | Imprint",
    "我的银行卡还没有到，怎么办？",
    "All rights are reserved. 2026",
)


def pieces_of(text, unit):
    return [text[start:end] for start, end in split_text(text, unit)]


@pytest.mark.parametrize(
    ("text", "lines", "paragraphs"),
    [
        ("", [], []),
        ("a", ["a"], ["a"]),
        ("a\nb\n\nc", ["a", "b", "c"], ["a\nb", "c"]),
        ("a\n \u3000\nb\n\n\n  c\nd", ["a", "b", "  c", "d"], ["a", "b", "  c\nd"]),
        ("我的卡。\n怎么办？\n\n谢谢", ["我的卡。", "怎么办？", "谢谢"], ["我的卡。\n怎么办？", "谢谢"]),
    ],
)
def test_a_text_is_cut_at_line_breaks_or_blank_lines(text, lines, paragraphs):
    assert pieces_of(text, "line") == lines
    assert pieces_of(text, "paragraph") == paragraphs


def test_the_hash_ignores_white_space_alone():
    text = "one  two\n\n  one two\n\none\u3000two\none Two\none two."
    hashes = hash_pieces(text, split_text(text, "line"), 1)
    assert hashes[0] == hashes[1] == hashes[2] == sha256(b"one two").digest()[:16]
    assert len(set(hashes)) == 3
    wrapped = "one\ntwo"
    assert hash_pieces(wrapped, split_text(wrapped, "paragraph"), 1) == hashes[:1]


def test_short_paragraphs_are_not_compared():
    text = "a" * 31 + "\n" + "a" * 32 + "\n" + "好" * 10 + "\n" + "好" * 11
    assert [each is not None for each in hash_pieces(text, split_text(text, "line"), 32)] == [
        *(False, True),
        *(False, True),  # 30 and 33 bytes
    ]


@pytest.mark.parametrize(
    ("text", "removed", "left"),
    [
        ("a\n\nb\n\nc", "", "a\n\nb\n\nc"),
        ("a\n\nb\n\nc", "b", "a\n\nc"),
        ("a\n\nb\nc", "b", "a\n\nc"),
        ("a\nb\n\nc", "b", "a\nc"),
        ("a\n\nb\n\nc", "c", "a\n\nb"),
        ("a\n\nb\n  c\n\nd", "a", "b\n  c\n\nd"),
        ("a\n\nb", "ab", ""),
    ],
)
def test_a_removed_paragraph_takes_the_space_behind_it(text, removed, left):
    pieces = split_text(text, "line")
    gone = [text[start:end].strip() in removed and removed != "" for start, end in pieces]
    assert sum(gone) == len(removed)  # each letter is one line
    assert leave_out(text, pieces, gone) == left


@pytest.mark.parametrize("unit", ["line", "paragraph"])
def test_no_paragraph_is_lost_or_moved(unit):
    draw = random.Random(3)
    for _ in range(300):
        parts = [
            draw.choice(["a", "bb c", "  d", "\u3000", "", " ", "好"]) for _ in range(draw.randint(0, 12))
        ]
        text = "\n".join(parts).strip()
        pieces = split_text(text, unit)
        assert leave_out(text, pieces, [False] * len(pieces)) == text
        gone = [draw.random() < 0.5 for _ in pieces]
        left = leave_out(text, pieces, gone)
        expected = [one for one, is_gone in zip(pieces_of(text, unit), gone, strict=True) if not is_gone]
        assert [one.split() for one in pieces_of(left, unit)] == [one.split() for one in expected]


def check_evidence(whole, text, removed, copied, settings):
    """What was removed is at its place in the text of before, and every other paragraph is left."""
    pieces = pieces_of(whole, settings.unit)
    for each in removed:
        found = whole[each.start : each.start + each.num_chars]
        assert found == pieces[each.paragraph]
        assert each.hash == sha256(" ".join(found.split()).encode()).hexdigest()[:32]
        assert bytes.fromhex(each.hash) in copied
    gone = {each.paragraph for each in removed}
    left = [one.split() for number, one in enumerate(pieces) if number not in gone]
    assert [one.split() for one in pieces_of(text, settings.unit)] == left


def run(documents, settings, num_tasks=1, max_seen=10**9, seed=0):
    """The texts that documents have left, in the steps of the stage: tasks, merge, each document again."""
    hashes = [content_hash(each.text.encode(), None).encode() for each in documents]
    sightings, tasks = [], [Sightings(settings.max_documents) for _ in range(num_tasks)]
    draw = random.Random(seed)
    whole = {each.text for each in documents if each.split not in settings.drop_from}
    for each, content in zip(documents, hashes, strict=True):
        task = draw.choice(tasks)
        paragraphs = hash_pieces(each.text, split_text(each.text, settings.unit), settings.min_bytes)
        task.add(paragraphs, pack_place(ORDER[each.split], each.file, each.offset), content)
        if len(task) > max_seen:
            sightings += task.take()
    sightings += [row for task in tasks for row in task.take()]
    draw.shuffle(sightings)
    copied = find_copied(sightings, settings.max_documents)
    texts = []
    for each, content in zip(documents, hashes, strict=True):
        if each.text in whole:
            texts.append(each.text)
            continue
        text, removed = edit_text(each.text, content, copied, settings)
        check_evidence(each.text, text, removed, copied, settings)
        texts.append(text)
    return texts, len(sightings)


def corpus(*texts, splits=()):
    named = [*splits, *["train"] * (len(texts) - len(splits))]
    return [
        Document(split, 0, number, text)
        for number, (split, text) in enumerate(zip(named, texts, strict=True))
    ]


def test_the_first_document_keeps_a_repeated_paragraph():
    documents = corpus(f"one\n{MENU}", f"{MENU}\ntwo\n{POEM}", f"three\n\n{POEM}")
    assert run(documents, Paragraphs())[0] == [f"one\n{MENU}", f"two\n{POEM}", "three"]
    assert run(documents, Paragraphs(survivor="none"))[0] == ["one", "two", "three"]


def test_a_paragraph_of_few_documents_stays_everywhere():
    two = corpus(f"one\n{MENU}", f"two\n{MENU}")
    three = corpus(f"one\n{MENU}", f"two\n{MENU}", f"three\n{MENU}")
    settings = Paragraphs(max_documents=2, survivor="none")
    assert run(two, settings)[0] == [each.text for each in two]
    assert run(three, settings)[0] == ["one", "two", "three"]


def test_copies_within_one_document_stay():
    documents = corpus(f"{POEM}\none\n{POEM}", "two")
    assert run(documents, Paragraphs())[0] == [each.text for each in documents]
    both = [*documents, Document("train", 1, 0, f"{POEM}\n{POEM}\nthree")]
    assert run(both, Paragraphs())[0] == [f"{POEM}\none\n{POEM}", "two", "three"]


def test_equal_documents_stay_equal_for_exact_deduplication():
    documents = corpus(f"one\n{MENU}", f"one\n{MENU}", f"two\n{MENU}")
    assert run(documents, Paragraphs())[0] == [f"one\n{MENU}", f"one\n{MENU}", "two"]
    # Two copies are one text, so the menu is in two texts and not in three.
    assert run(documents, Paragraphs(max_documents=2))[0] == [each.text for each in documents]


def test_test_documents_stay_whole_and_go_first():
    text = f"one\n{MENU}\n{RULES} {RULES}"
    documents = corpus(
        f"zero\n{MENU}", text, f"{MENU}\n{POEM}", text, splits=["train", "train", "test", "test"]
    )
    # The copy of a test document in train stays equal to it, or exact deduplication would not drop it.
    assert run(documents, Paragraphs())[0] == ["zero", text, f"{MENU}\n{POEM}", text]


def make_corpus(seed):
    draw = random.Random(seed)
    lines = [f"{'line ' * 7}{number}" for number in range(6)] + [
        "我的银行卡还没有到" + "呢" * n for n in (1, 2, 3)
    ]
    lines += ["short", *[""] * 8, "  ", f"  {'line ' * 7}1"]
    texts = ["\n".join(draw.choices(lines, k=draw.randint(1, 6))).strip() for _ in range(60)]
    texts += draw.sample(texts, 15)
    draw.shuffle(texts)
    splits = draw.choices(list(ORDER), [1, 2, 7], k=len(texts))
    return [Document(splits[n], n % 4, n, text) for n, text in enumerate(texts)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("unit", ["line", "paragraph"])
@pytest.mark.parametrize("knobs", [{}, {"max_documents": 3}, {"survivor": "none", "max_documents": 2}])
def test_texts_equal_those_of_the_twin(seed, unit, knobs):
    documents, settings = make_corpus(seed), Paragraphs(unit=unit, **knobs)
    texts, _ = run(documents, settings)
    found = [[" ".join(one.split()) for one in pieces_of(text, unit)] for text in texts]
    assert found == deduplicate(documents, settings)
    assert any(text != each.text for text, each in zip(texts, documents, strict=True))


@pytest.mark.parametrize("num_tasks", [1, 7, 200])
@pytest.mark.parametrize("max_seen", [0, 3, 10**9])
def test_texts_do_not_depend_on_tasks_and_memory(num_tasks, max_seen):
    documents, settings = make_corpus(9), Paragraphs(max_documents=2, survivor="first")
    expected = run(documents, settings)[0]
    shuffled = list(enumerate(documents))
    random.Random(num_tasks).shuffle(shuffled)
    texts, _ = run([each for _, each in shuffled], settings, num_tasks, max_seen, seed=num_tasks + 1)
    assert {number: text for (number, _), text in zip(shuffled, texts, strict=True)} == dict(
        enumerate(expected)
    )


def test_a_frequent_paragraph_costs_few_rows():
    documents = corpus(*(f"{MENU}\n{number}" for number in range(1000)))
    texts, num_rows = run(documents, Paragraphs(max_documents=4), num_tasks=3)
    assert num_rows == 3 * 5
    assert texts == [f"{MENU}\n0", *(str(number) for number in range(1, 1000))]


def test_evidence_names_the_place_of_what_was_removed():
    copied = {sha256(MENU.encode()).digest()[:16]: b"other"}
    text = f"一二\n\n  {MENU}\nthree\n{MENU}"
    left, removed = edit_text(text, b"mine", copied, Paragraphs())
    assert left == "一二\n\nthree"
    digest = sha256(MENU.encode()).hexdigest()[:32]
    assert removed == [(1, 4, 2 + len(MENU), digest), (3, 4 + 2 + len(MENU) + 7, len(MENU), digest)]
    assert edit_text(text, b"other", copied, Paragraphs()) == (text, [])
    assert edit_text(text, b"mine", {}, Paragraphs()) == (text, [])


def test_places_are_ordered_by_split_slice_and_record():
    places = [(0, 0, 0), (0, 0, 2**32 - 1), (0, 2**29 - 1, 0), (1, 0, 0), (2, 0, 1), (2, 1, 0)]
    packed = [pack_place(*place) for place in places]
    assert packed == sorted(packed)
    assert packed[3] == 2**61
    assert pack_place(3, 2**29 - 1, 2**32 - 1) == 2**63 - 1  # the largest BIGINT
    with pytest.raises(ValueError, match=r"the slice of a text must be below 536,870,912, got 536,870,912"):
        pack_place(0, 2**29, 0)


class CountedText(str):
    """A text that counts the characters that are taken from it."""

    num_taken = 0

    def __getitem__(self, key):
        part = super().__getitem__(key)
        self.num_taken += len(part)
        return part


@pytest.mark.parametrize("text", [" " * 10**4, "a \n" * 3_000, "\n" * 10**4, ("a" * 40 + "\n") * 200])
@pytest.mark.parametrize("unit", ["line", "paragraph"])
def test_each_character_is_taken_twice_at_most(text, unit):
    counted = CountedText(f"a{text}a")
    pieces = split_text(counted, unit)
    hashes = hash_pieces(counted, pieces, 32)
    leave_out(counted, pieces, [each is None for each in hashes])
    assert 0 < counted.num_taken <= 2 * len(counted)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"unit": "sentence"}, r"unit must be one of line, paragraph, got sentence"),
        ({"min_bytes": 0}, r"min_bytes must be at least 1, got 0"),
        ({"max_documents": 0}, r"max_documents must be from 1 to 1,000, .*; got 0"),
        ({"max_documents": 1001}, r"max_documents must be from 1 to 1,000, .*; got 1001"),
        ({"survivor": "last"}, r"survivor must be one of first, none, got last"),
        ({"drop_from": ("train", "test")}, r"drop_from must be .*, got train, test; a test set stays whole"),
        ({"drop_from": ()}, r"drop_from must be one or both of train, validation, got ;"),
    ],
)
def test_settings_name_what_is_wrong(knobs, message):
    with pytest.raises(ValueError, match=message):
        Paragraphs(**knobs)
