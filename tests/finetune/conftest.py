"""The small training of data.py, ready to run."""

import pytest

from tests.finetune import data


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder with the sequences of a small classification; `open_split` finds them without a table."""
    monkeypatch.setenv("DISTRIBUTARY_CACHE", str(tmp_path / "cache"))
    data.write_sequences(tmp_path / "cache")
    return tmp_path


@pytest.fixture
def text_root(tmp_path, monkeypatch):
    """As `root`, for language modelling."""
    monkeypatch.setenv("DISTRIBUTARY_CACHE", str(tmp_path / "cache"))
    data.write_sequences(tmp_path / "cache", data.text_rows)
    return tmp_path
