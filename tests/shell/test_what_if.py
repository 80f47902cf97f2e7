"""`distributary corpus --what-if`: the configuration of rules on the command line, and the printed table."""

import json
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from jobs import corpus
from jobs.shell import settings as configuration
from jobs.shell.cli import build_program
from jobs.shell.what_if import show_what_if
from pipelines.pin import pin
from tests.conftest import TEST_CONF

SHORT = "fineweb/max_short_line_fraction"
TEXTS = [
    "A short line.",
    "Another short line.",
    "This line is long enough to count as a line of a real text.",
]


def write_config(folder, *more, texts=TEXTS):
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    source = f"{{name: s, path: {folder}/texts.jsonl, format: jsonl, fields: {{text: text}}}}"
    spark = "{" + ", ".join(f'{key}: "{value}"' for key, value in TEST_CONF.items()) + "}"
    overrides = ["recipe=texts", f"root={folder}/lake", f"corpus.sources=[{source}]", f"spark={spark}", *more]
    return configuration.load(overrides=overrides).section("corpus", corpus.Config)


@pytest.fixture(scope="module")
def made(spark, tmp_path_factory):
    """A corpus whose two short texts are dropped."""
    folder = tmp_path_factory.mktemp("what_if")
    config = write_config(folder, "corpus.rules.presets=[fineweb]", f"corpus.rules.thresholds.{SHORT}=0.5")
    return SimpleNamespace(folder=folder, config=config, outcome=corpus.main(config))


def test_thresholds_are_read_by_rule(made):
    assert made.config.rules.thresholds == {SHORT: 0.5}
    assert made.outcome.facts["dropped"] == f"{SHORT} 2"
    assert [place.rpartition("/")[2] for place in made.outcome.outputs] == [
        "quarantine",
        "signals",
        "documents",
    ]


def test_what_if_prints_documents_and_characters(made, capsys):
    versions = [pin(place).version for place in made.outcome.outputs]
    show_what_if(made.config, [f"{SHORT}=null"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["kept", "1", "59", "3", str(sum(map(len, TEXTS)))] in rows
    assert [SHORT, "2", "32", "0", "0"] in rows
    assert versions == [pin(place).version for place in made.outcome.outputs]


def test_a_second_run_has_nothing_to_do(made):
    assert not corpus.main(made.config).ran


def test_a_near_duplicate_is_not_shown_as_a_copy(spark, tmp_path, capsys):
    words = " ".join(f"word{number}" for number in range(200))
    texts = [f"{words}.", f"{words}.", f"{words} again."]
    more = ("corpus.rules.presets=[fineweb]", "corpus.near_duplicates.enabled=true")
    config = write_config(tmp_path, *more, "corpus.near_duplicates.max_source_loss=1.0", texts=texts)
    assert corpus.main(config).facts["dropped"] == "exact_duplicate 1, near_duplicate 1"
    capsys.readouterr()  # the progress of the stage
    show_what_if(config, [f"{SHORT}=null"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert {row[0]: (row[1], row[3]) for row in rows if len(row) == 5} == {
        "kept": ("1", "1"),
        "exact_duplicate": ("1", "1"),
        "near_duplicate": ("1", "1"),
    }


def test_a_wrong_change_names_what_is_expected(made):
    with pytest.raises(ValueError, match=r"takes RULE=THRESHOLD, such as .*; got 'fineweb/x=many'"):
        show_what_if(made.config, ["fineweb/x=many"])
    with pytest.raises(ValueError, match=r"must name a rule of the presets, such as .*; got 'fineweb/x'"):
        show_what_if(made.config, ["fineweb/x=1"])


def test_word_lists_alone_are_enough(spark, tmp_path, capsys):
    (tmp_path / "list.txt").write_text("line\n")
    words = f"corpus.rules.word_lists=[{{name: lines, path: {tmp_path}/list.txt}}]"
    config = write_config(tmp_path, words)
    assert [place.rpartition("/")[2] for place in corpus.main(config).outputs] == [
        "quarantine",
        "word_matches",
        "documents",
    ]
    capsys.readouterr()  # the progress of the stage
    show_what_if(config, ["word_list/lines/max_matches=1", "min_chars=19"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert {row[0]: (row[1], row[3]) for row in rows if len(row) == 5} == {
        "kept": ("3", "1"),  # 19 characters with one match; the longest text has two
        "too_short": ("0", "1"),
        "word_list/lines/max_matches": ("0", "1"),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("min_chars=null", "min_chars must be a number, got null; 0 switches it off"),
        ("min_chars=1.5", "min_chars must be a whole number of code points, got 1.5"),
        ("min_chars=0", r"at least corpus.rules.min_chars = 1, .* got 0; change the key and run corpus"),
        ("min_language_score=0.9", r"needs languages: name some in corpus.rules.languages and run corpus"),
    ],
)
def test_limits_that_cannot_be_compared_are_refused(spark, made, change, message):
    with pytest.raises(ValueError, match=message):
        show_what_if(made.config, [change])


def test_what_if_needs_rules_and_their_tables(made, tmp_path):
    with pytest.raises(ValueError, match=r"must name a rule of the presets, but presets is empty"):
        show_what_if(write_config(tmp_path), [f"{SHORT}=1"])
    with pytest.raises(FileNotFoundError, match=r"no documents table at .*; run first: distributary corpus"):
        show_what_if(write_config(tmp_path, "corpus.rules.presets=[fineweb]"), [f"{SHORT}=1"])
    elsewhere = made.config.model_copy(update={"signals": f"{tmp_path}/signals"})
    with pytest.raises(
        ValueError, match=r"signals was not made together with .*documents; run: distributary"
    ):
        show_what_if(elsewhere, [f"{SHORT}=1"])


def test_only_corpus_takes_what_if():
    def get_help(stage):
        return CliRunner().invoke(build_program(), [stage, "--help"]).output

    assert "--what-if" in get_help("corpus")
    assert "--what-if" not in get_help("dataset")
