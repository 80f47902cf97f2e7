"""Which files of a version or of a path of a run are those of a tokenizer or model. Nothing is downloaded."""

from collections.abc import Iterable, Iterator
from typing import Any

import mlflow.artifacts
from mlflow.exceptions import MlflowException

from pipelines.dataset.artefacts import ADAPTER_CONFIG, MODELS, File, choose_files, parse_model
from pipelines.registry.versions.find import DIGEST_TAG, find_version

MAX_DEPTH, MAX_FILES = 5, 5_000
"""Of a listing: a name that means a whole run with thousands of pictures is a mistake."""


def list_model(name: str) -> dict[str, Any]:
    """What a connected MLflow knows of models:/NAME/VERSION or models:/NAME@ALIAS, in plain types."""
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
    found = list(_list_files(uri))
    files = choose_files(found, uri)
    return {
        "name": uri,
        "source": source,
        "digest": digest if _is_whole_folder(files.values(), found) else None,
        "files": files,
        "has_adapter": any(each.path.rpartition("/")[2] == ADAPTER_CONFIG for each in found),
    }


def _is_whole_folder(chosen: Iterable[File], found: Iterable[File]) -> bool:
    """Whether the chosen files are all files of one folder, as registered: then its digest is theirs too. A
    folder with an adapter beside its weights has more."""
    paths = {each.path for each in chosen}
    folders = {path.rpartition("/")[0] for path in paths}
    if len(folders) != 1:
        return False
    (folder,) = folders
    return paths == {each.path for each in found if not folder or each.path.startswith(f"{folder}/")}


def _list_files(uri: str) -> Iterator[File]:
    """All files below `uri`. Raises FileNotFoundError if MLflow has nothing there."""
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
