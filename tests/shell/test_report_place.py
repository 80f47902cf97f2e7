"""Where a report is written, and when it is written again: without Spark."""

import json
from types import SimpleNamespace

import pytest

from jobs import corpus
from jobs.shell import settings as configuration
from jobs.shell.corpus_report import is_current, show_report
from pipelines.corpus.report.numbers import write_numbers
from pipelines.corpus.report.page import render
from pipelines.report import TableVersion, write_report
from tests.corpus.report_content import commit_documents, make_content, make_token_counts

UNKNOWN = "Tokens are not known: their tokenizer cannot be used (cannot reach the hub)."


def load(folder, tokenizer="null"):
    source = f"{{name: a, path: {folder}/a.jsonl, format: jsonl, fields: {{text: text}}}}"
    own = [f"root={folder}/lake", f"corpus.sources=[{source}]", f"corpus.report={folder}/notes.html"]
    settings = configuration.load(overrides=[*own, f"corpus.report_tokenizer={tokenizer}"])
    return SimpleNamespace(settings=settings, config=settings.section("corpus", corpus.Config))


def write(config, documents, token_counts):
    """The report of these documents, as the stage writes it with this setting."""
    values = {"version": documents.version, "digest": documents.digest, "num_rows": 0, "written": ""}
    content = make_content(tables=[TableVersion(name="documents", **values)], token_counts=token_counts)
    write_report(config.report, render(content), write_numbers(content, config.report_tokenizer))


def change_numbers(folder, **changes):
    file = folder / "notes.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_report_is_written_again_when_its_setting_changes(tmp_path):
    config, other = load(tmp_path, "org/small").config, load(tmp_path, "org/large").config
    documents = commit_documents(config.documents, {})
    assert not is_current(config)
    write(config, documents, make_token_counts())
    assert [is_current(each) for each in (config, other, load(tmp_path).config)] == [True, False, False]
    change_numbers(tmp_path, format=None)  # of an earlier Distributary
    assert not is_current(config)
    write(config, documents, make_token_counts())
    commit_documents(config.documents, {})
    assert not is_current(config)


def test_tokens_that_a_failure_left_unknown_are_tried_again(tmp_path):
    config, without = load(tmp_path, "org/small").config, load(tmp_path).config
    documents = commit_documents(config.documents, {})
    write(config, documents, UNKNOWN)
    assert not is_current(config)
    write(config, documents, make_token_counts())
    assert is_current(config)
    write(without, documents, UNKNOWN)  # no tokenizer is set: nothing to try
    assert is_current(without)


@pytest.mark.parametrize("text", ['{"my": "notes"}', "[]", "my notes", ""])
def test_a_file_of_someone_else_is_not_replaced(tmp_path, text):
    made, file = load(tmp_path), tmp_path / "notes.json"
    file.write_text(text)
    rule = f"{file} is not of a report about documents: it has no documents_digest; .*page notes.html are "
    for start in (
        lambda: show_report(made.config, made.settings, made.config.report),
        lambda: corpus.main(made.config),
    ):
        with pytest.raises(ValueError, match=f"{rule}written.*; give the page another name, or move it away"):
            start()
    assert file.read_text() == text
    assert not (tmp_path / "lake").exists()


def test_a_folder_is_not_replaced(tmp_path):
    made = load(tmp_path)
    (tmp_path / "notes.json").mkdir()
    with pytest.raises(ValueError, match=r"/notes.json is a folder; .* give the page another name"):
        show_report(made.config, made.settings, made.config.report)
    (tmp_path / "notes.html").mkdir()
    with pytest.raises(ValueError, match=r"/notes.html is a folder; give the name of a file, such as"):
        corpus.main(made.config)
