"""Base models that MLflow keeps: their names, the files of them that are read, and who brings these.

Only the registry knows MLflow itself, so the shell says once who asks it (`provide_artefacts`). An alias is
resolved to a version number, once per process, and the number goes into every fingerprint and record. A
version may be deleted and its number given again: MLflow's own id of the place and the sizes of the files are
part of the identity too. Files below a path of a run that are replaced by others of equal sizes are not seen:
register a version.
"""

import functools
import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from pipelines.machine import cache_folder

MODELS, RUNS = "models:/", "runs:/"
FORMS = "models:/NAME/VERSION, models:/NAME@ALIAS or runs:/RUN_ID/PATH"
WEIGHTS = ".safetensors"
CONFIG_FILE = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
"""PEFT's name; it is not read."""
_READ = re.compile(
    r"(config|generation_config|model_spec|tokenizer|tokenizer_config|special_tokens_map)\.json"
    r"|chat_template\.jinja|model\.safetensors(\.index\.json)?|model-\d+-of-\d+\.safetensors"
)
"""Names of the files that are read. Pickles and code are not among them, so they are never brought."""
_MODEL = re.compile(r"models:/(?P<name>[^/@]+)(/(?P<version>\d+)|@(?P<alias>[^/@]+))")
_RUN = re.compile(r"runs:/\w+(/[\w .+=-]+)+")


class NoStoreError(RuntimeError):
    """This process asks no MLflow, such as a worker that scores."""


class File(NamedTuple):
    """One file of an artefact."""

    path: str
    """Within the artefact."""
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Artefact:
    """Files of a tokenizer or model that MLflow keeps."""

    name: str
    """models:/NAME/VERSION or runs:/RUN_ID/PATH: without an alias, which moves."""
    source: str
    """MLflow's own name of the place."""
    files: dict[str, File]
    """By name, without folders: those that are read."""
    digest: str | None = None
    """Of `files`, as this project registered them; None = not known, or `files` are not the whole folder."""
    has_adapter: bool = False
    """Whether it holds an adapter in PEFT's format, beside weights or alone."""

    @property
    def identity(self) -> list[object]:
        """What distinguishes other files under the same name."""
        return [self.name, self.source, [[name, each.num_bytes] for name, each in sorted(self.files.items())]]

    @property
    def folder(self) -> Path:
        """Where this machine keeps what was brought of it; it may not be there yet."""
        key = hashlib.sha256(repr(self.identity).encode()).hexdigest()[:32]
        return cache_folder() / "artefacts" / key


class Artefacts(Protocol):
    """Asks MLflow."""

    def find(self, name: str) -> Artefact:
        """The artefact `name`. Raises FileNotFoundError with the remedy if there is none."""

    def fetch(self, artefact: Artefact, names: Iterable[str]) -> Path:
        """`artefact.folder`, with the files `names`, each complete."""


_open: Callable[[], Artefacts] | None = None


def provide_artefacts(open_store: Callable[[], Artefacts]) -> None:
    """`open_store` is called when a base is one of MLflow's."""
    global _open
    _open = open_store
    find_artefact.cache_clear()


def is_artefact(name: str) -> bool:
    """Whether the name of a base is one of MLflow's."""
    return name.startswith((MODELS, RUNS))


# Once per process: the plan of a stage and its work must see the same version of an alias.
@functools.lru_cache(maxsize=64)
def find_artefact(name: str) -> Artefact:
    """The artefact `name`. Raises FileNotFoundError with the remedy."""
    if not (_MODEL.fullmatch(name) or _is_run_path(name)):
        raise FileNotFoundError(f"{name!r} names nothing in MLflow; write {FORMS}")
    return _require_store(name).find(name)


def fetch_artefact(artefact: Artefact, names: Iterable[str]) -> Path:
    """The folder with the files `names`, brought now or before."""
    return _require_store(artefact.name).fetch(artefact, names)


def parse_model(name: str) -> tuple[str, str] | None:
    """(registered model, version or alias) of models:/...; None = another name."""
    found = _MODEL.fullmatch(name)
    return None if found is None else (found["name"], found["version"] or found["alias"])


def choose_files(found: Iterable[File], name: str) -> dict[str, File]:
    """The files that are read, by name, of all that an artefact has.

    The folder with config.json comes first; what it lacks is taken from the others, as MLflow's flavor
    transformers puts the tokenizer into a folder of its own. Raises ValueError if several folders could be
    meant.
    """
    read = [each for each in found if _READ.fullmatch(_split(each.path)[1])]
    models = sorted({_split(each.path)[0] for each in read if _split(each.path)[1] == CONFIG_FILE})
    if len(models) > 1:
        raise ValueError(
            f"{name} has several models, in {', '.join(folder or '.' for folder in models)}; name one of "
            "them: runs:/RUN_ID/PATH/FOLDER"
        )
    chosen: dict[str, File] = {}
    for each in sorted(read, key=lambda file: (_split(file.path)[0] not in models, file.path)):
        chosen.setdefault(_split(each.path)[1], each)
    return chosen


def require_weights(artefact: Artefact) -> None:
    """Raises FileNotFoundError if an artefact has no weights that may be read."""
    missing = CONFIG_FILE if CONFIG_FILE not in artefact.files else None
    if not any(name.endswith(WEIGHTS) for name in artefact.files):
        missing = "model.safetensors"
    if missing is not None and artefact.has_adapter:
        raise FileNotFoundError(
            f"{artefact.name} holds an adapter without its base, which can't be trained further; name its "
            "base, or train the adapter again with finetune.model.adapter.merge=true"
        )
    if missing is not None:
        raise FileNotFoundError(
            f"{artefact.name} has no {missing}, so no weights can be read from it (a pickle is never "
            "loaded); save the model with transformers' save_pretrained and register it again"
        )


def _is_run_path(name: str) -> bool:
    return _RUN.fullmatch(name) is not None and not {".", ".."}.intersection(name.split("/"))


def _split(path: str) -> tuple[str, str]:
    """(folder, name)"""
    folder, _, name = path.rpartition("/")
    return folder, name


def _require_store(name: str) -> Artefacts:
    if _open is None:
        raise NoStoreError(
            f"no MLflow store is known, so {name} cannot be found; load a configuration first "
            "(jobs.shell.settings.load), or give a folder"
        )
    return _open()
