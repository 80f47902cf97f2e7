"""Base models out of MLflow: what `pipelines.dataset.artefacts` asks for.

A version or a path of a run is listed first, and then only the files that a tokenizer or model needs are
downloaded, each once per machine. MLflow is loaded at the first question that has no kept answer.
"""

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from pipelines.dataset.artefacts import MODELS, Artefact, File
from pipelines.registry.lookup import Lookup
from pipelines.registry.server import require_server
from pipelines.registry.verify import require_digest


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
        if not files and not found["has_adapter"]:
            raise FileNotFoundError(
                f"{name} has no tokenizer.json, config.json or *.safetensors; name the version of a model, "
                "or the folder in a run that holds them"
            )
        return Artefact(found["name"], found["source"], files, found["digest"], found["has_adapter"])

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
    if artefact.digest is None:
        return
    try:
        require_digest(artefact.folder, artefact.digest, what=artefact.name)
    except ValueError:
        shutil.rmtree(artefact.folder, ignore_errors=True)
        raise
