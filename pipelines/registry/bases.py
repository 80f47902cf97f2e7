"""Base models out of MLflow: what `pipelines.dataset.artefacts` asks for.

A version or a path of a run is listed first, and then only the files that a tokenizer or model needs are
downloaded, each once per machine. MLflow is loaded at the first question that has no kept answer.
"""

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipelines.dataset.artefacts import MODELS, Artefact, File, choose_files, parse_model
from pipelines.registry.lookup import Lookup
from pipelines.registry.server import require_server
from pipelines.registry.verify import require_digest

MAX_DEPTH, MAX_FILES = 5, 5_000
"""Of a listing: a name that means a whole run with thousands of pictures is a mistake."""


class Bases:
    """The artefacts of one store."""

    def __init__(self, tracking_uri: str, artifact_root: str | None = None) -> None:
        self._uri, self._lookup = tracking_uri, Lookup(tracking_uri, artifact_root)

    def find(self, name: str) -> Artefact:
        """The artefact `name`, an alias resolved. Raises FileNotFoundError with the remedy, ConnectionError
        if the server does not answer."""
        require_server(self._uri)
        found = self._lookup.find_base(name) if name.startswith(MODELS) else self._lookup.list_base(name)
        files = {each: File(*file) for each, file in found["files"].items()}
        if not files:
            raise FileNotFoundError(
                f"{name} has no tokenizer.json, config.json or *.safetensors; name the version of a model, "
                "or the folder in a run that holds them"
            )
        return Artefact(found["name"], found["source"], files, found["digest"])

    def fetch(self, artefact: Artefact, names: Iterable[str]) -> Path:
        """The folder of the artefact on this machine, with the files `names`.

        Raises OSError if a file comes with another size, ValueError if a complete model is not the one that
        was registered.
        """
        missing = [name for name in names if not _is_complete(artefact, name)]
        if missing:
            self._lookup.connect()
            for name in missing:
                _download(artefact, name)
            if all(_is_complete(artefact, name) for name in artefact.files):
                _verify(artefact)
        return artefact.folder


def list_model(name: str) -> dict[str, Any]:
    """What a connected MLflow knows of models:/NAME/VERSION or models:/NAME@ALIAS, in plain types."""
    from pipelines.registry.versions.find import DIGEST_TAG, find_version

    parsed = parse_model(name)
    assert parsed is not None, "the name was checked"
    try:
        version = find_version(*parsed)
    except LookupError as error:
        raise FileNotFoundError(f"{name}: {error}") from None
    pinned = f"{MODELS}{parsed[0]}/{version.version}"
    source = f"{version.source} {version.run_id} {version.creation_timestamp}"
    return _describe(pinned, source, version.tags.get(DIGEST_TAG))


def list_path(name: str) -> dict[str, Any]:
    """The same of runs:/RUN_ID/PATH."""
    return _describe(name, name, None)


def _describe(uri: str, source: str, digest: str | None) -> dict[str, Any]:
    files = choose_files(list(_list_files(uri)), uri)
    return {"name": uri, "source": source, "digest": digest, "files": files}


def _list_files(uri: str) -> Iterator[File]:
    """All files below `uri`. Raises FileNotFoundError if MLflow has nothing there."""
    import mlflow.artifacts
    from mlflow.exceptions import MlflowException

    waiting, num_files = [("", 0)], 0
    while waiting:
        folder, depth = waiting.pop()
        try:
            found = mlflow.artifacts.list_artifacts(artifact_uri=f"{uri}/{folder}".rstrip("/"))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise FileNotFoundError(f"{uri}: MLflow has no such run or version ({error.message})") from None
        for each in found:
            path = f"{folder}/{each.path.rpartition('/')[2]}".lstrip("/")
            if not each.is_dir:
                num_files += 1
                yield File(path, int(each.file_size or 0))
            elif depth < MAX_DEPTH:
                waiting.append((path, depth + 1))
        if num_files > MAX_FILES:
            raise ValueError(f"{uri} has more than {MAX_FILES:,} files; name the folder of one model")


def _is_complete(artefact: Artefact, name: str) -> bool:
    path = artefact.folder / name
    return path.is_file() and path.stat().st_size == artefact.files[name].num_bytes


def _download(artefact: Artefact, name: str) -> None:
    """Download into a folder beside and rename: a file under its name is complete."""
    import mlflow.artifacts

    file, folder = artefact.files[name], artefact.folder
    folder.mkdir(parents=True, exist_ok=True)
    part = tempfile.mkdtemp(dir=folder.parent, prefix=".part-")
    try:
        brought = mlflow.artifacts.download_artifacts(
            artifact_uri=f"{artefact.name}/{file.path}", dst_path=part
        )
        num_bytes = Path(brought).stat().st_size
        if num_bytes != file.num_bytes:
            raise OSError(
                f"{artefact.name}/{file.path} came with {num_bytes:,} bytes, MLflow said {file.num_bytes:,}; "
                "it was replaced meanwhile or its store is damaged: run again"
            )
        Path(brought).replace(folder / name)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _verify(artefact: Artefact) -> None:
    """Compare a complete model folder with the digest of its registration; a wrong one is deleted."""
    folders = {file.path.rpartition("/")[0] for file in artefact.files.values()}
    if artefact.digest is None or len(folders) != 1:  # then its files are of several folders
        return
    try:
        require_digest(artefact.folder, artefact.digest, what=artefact.name)
    except ValueError:
        shutil.rmtree(artefact.folder, ignore_errors=True)
        raise
