import pytest

from pipelines.dataset import artefacts
from pipelines.dataset.artefacts import Artefact, File, choose_files, parse_model, provide_artefacts
from pipelines.dataset.hub import base_identity, pin_base, resolve_base
from pipelines.dataset.tokenizer import identify_tokenizer, load_tokenizer, tokenizer_identity
from pipelines.dataset.tokenizer_choice import TokenizerChoice
from tests.dataset.styles import END, gpt2_style, write_model_folder


class Kept:
    """Artefacts of a folder: `aliases` says which version a name means now."""

    def __init__(self, source, aliases):
        self.source, self.aliases, self.fetched = source, aliases, []

    def find(self, name):
        pinned = self.aliases.get(name, name)
        files = {path.name: File(path.name, path.stat().st_size) for path in self.source.iterdir()}
        return Artefact(pinned, f"m-{pinned}", choose_files(files.values(), pinned))

    def fetch(self, artefact, names):
        artefact.folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            self.fetched.append(name)
            (artefact.folder / name).write_bytes((self.source / name).read_bytes())
        return artefact.folder


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTRIBUTARY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(artefacts, "_open", None)
    source = write_model_folder(tmp_path / "model", gpt2_style(), tokenizer_config={"eos_token": END})
    (source / "config.json").write_text("{}")
    (source / "model.safetensors").write_bytes(b"weights")
    (source / "pytorch_model.bin").write_bytes(b"a pickle")
    store = Kept(source, {"models:/intents@champion": "models:/intents/3"})
    provide_artefacts(lambda: store)
    yield store
    artefacts.find_artefact.cache_clear()


def test_a_tokenizer_brings_no_weights(kept):
    chosen = load_tokenizer("models:/intents@champion")
    assert chosen.tokenizer.to_str() == gpt2_style().to_str()
    assert chosen.end_token_id == chosen.tokenizer.token_to_id(END)
    assert "tokenizer.json" in kept.fetched
    assert "model.safetensors" not in kept.fetched


def test_an_alias_is_recorded_as_its_version(kept):
    assert pin_base("models:/intents@champion") == "models:/intents/3"
    assert pin_base("org/name@main") == "org/name@main"
    of_alias, of_number = (
        identify_tokenizer(TokenizerChoice(base=f"models:/intents{name}"), is_chat=False)
        for name in ("@champion", "/3")
    )
    assert of_alias == of_number
    assert of_alias["tokenizer"]["base"] == "models:/intents/3"
    assert kept.fetched == []  # a plan downloads nothing


def test_a_moved_alias_is_another_identity_in_the_next_process(kept):
    before = base_identity("models:/intents@champion")
    kept.aliases["models:/intents@champion"] = "models:/intents/4"
    assert base_identity("models:/intents@champion") == before  # one process sees one version
    provide_artefacts(lambda: kept)
    assert base_identity("models:/intents@champion") != before
    assert tokenizer_identity(TokenizerChoice(base="models:/intents@champion"))[0] == "models:/intents/4"


def test_replaced_files_are_another_identity(kept):
    before = base_identity("runs:/abc/model")
    (kept.source / "model.safetensors").write_bytes(b"other weights")
    provide_artefacts(lambda: kept)
    assert base_identity("runs:/abc/model") != before


def test_weights_without_safetensors_are_refused_before_a_download(kept):
    (kept.source / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors.*a pickle is never loaded"):
        base_identity("models:/intents/3")
    assert kept.fetched == []


def test_only_files_without_code_are_chosen():
    paths = ["model/config.json", "model/model.safetensors", "model/pytorch_model.bin", "model/modeling.py"]
    paths += [
        "components/tokenizer/tokenizer.json",
        "python_model.pkl",
        "model/model-00001-of-00002.safetensors",
    ]
    chosen = choose_files([File(path, 1) for path in paths], "models:/intents/3")
    assert {file.path for file in chosen.values()} == {
        "model/config.json",
        "model/model.safetensors",
        "model/model-00001-of-00002.safetensors",
        "components/tokenizer/tokenizer.json",
    }


def test_the_folder_of_the_model_comes_first():
    files = [File("a/tokenizer.json", 1), File("model/tokenizer.json", 2), File("model/config.json", 3)]
    assert choose_files(files, "x")["tokenizer.json"].path == "model/tokenizer.json"
    with pytest.raises(ValueError, match=r"x has several models, in a, model; name one of them"):
        choose_files([*files, File("a/config.json", 4)], "x")


@pytest.mark.parametrize(
    "name",
    [
        "models:/intents",
        "models:/intents/latest",
        "models:/a/b/3",
        "models:/x@",
        "runs:/abc",
        "runs:/abc/../x",
    ],
)
def test_a_name_that_means_nothing_in_mlflow_is_refused(kept, name):
    with pytest.raises(FileNotFoundError, match=r"names nothing in MLflow; write models:/NAME/VERSION"):
        resolve_base(name)


def test_names_of_models_are_taken_apart():
    assert parse_model("models:/my model/12") == ("my model", "12")
    assert parse_model("models:/main.text.intents@champion") == ("main.text.intents", "champion")
    assert parse_model("runs:/abc/model") is None


def test_without_a_store_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr(artefacts, "_open", None)
    artefacts.find_artefact.cache_clear()
    with pytest.raises(RuntimeError, match=r"no MLflow store is known, so models:/intents/3 cannot be found"):
        resolve_base("models:/intents/3")
