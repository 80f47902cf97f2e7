"""Names that one section of a configuration gives and another one uses."""

import pytest

from tests.shell.conftest import check_all

SOURCES = "corpus.sources=[{name: wiki, path: a, format: text}, {name: web, path: b, format: text}]"
TESTED = (
    "corpus.sources=[{name: wiki, path: a, format: text}, "
    "{name: held, path: b, format: text, splits: {test: 1.0}}, "
    "{name: own, path: c, format: jsonl, fields: {text: t, split: s}, splits: {test: 1.0}}]"
)


def check(*overrides, sources=SOURCES):
    return check_all(overrides=["recipe=mixed", sources, *overrides])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "finetune.mixture.shares={wkii: 0.3}",
            r"shares names source wkii, and corpus.sources has only wiki, web; did you mean wiki\?; take one",
        ),
        ("finetune.mixture.max_sequences={books: 7}", "mixture.max_sequences names source books, and corpus"),
        ("finetune.mixture.max_repeats={books: 4}", "mixture.max_repeats names source books, and corpus"),
        (
            "finetune.mixture.shares={wiki: 0.3, web: 0.3}",
            r"shares name every source of corpus.sources, so they must add up to 1, got 0.6; raise one",
        ),
        (
            "finetune.curriculum.column=quality",
            "finetune.curriculum.column should be 'num_tokens', 'num_targets' or 'num_bytes', got 'quality'",
        ),
    ],
)
def test_a_name_that_no_other_section_has_is_refused_at_once(override, message):
    with pytest.raises(ValueError, match=message):
        check(override)


@pytest.mark.parametrize(
    "override",
    [
        "finetune.mixture.shares={wiki: 0.3}",
        "finetune.mixture.shares={wiki: 0.3, web: 0.7}",
        "finetune.mixture.max_sequences={web: 7}",
        "finetune.mixture.max_repeats=4",
    ],
)
def test_names_of_sources_pass(override):
    assert check(override)["finetune"].mixture.is_set


def test_a_source_without_train_cannot_be_mixed():
    message = r"shares names source held, whose corpus.sources\[\].splits has no train, got 0.5; remove it"
    with pytest.raises(ValueError, match=message):
        check("finetune.mixture.shares={held: 0.5}", sources=TESTED)
    check("finetune.mixture.shares={own: 0.5}", sources=TESTED)  # its records say their split


@pytest.mark.parametrize(
    "place", ["dataset.documents=/other/documents", "finetune.sequences=/other/sequences"]
)
def test_nothing_is_known_of_other_tables(place):
    check("finetune.mixture.shares={books: 0.3}", place)


def test_nothing_is_known_of_sources_that_another_program_reads():
    assert check("finetune.mixture.shares={books: 0.3}", sources="corpus.sources=[]")["corpus"].sources == []
