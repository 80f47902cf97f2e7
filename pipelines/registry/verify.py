"""Are the files of a model those that were registered? Without MLflow, because executors ask it too."""

from pathlib import Path

from pipelines.storage import folder_digest


def require_digest(folder: Path, expected: str | None, *, what: str) -> None:
    """Raise ValueError if the files of a model folder are not those that were registered. One pass over them.

    `expected` null: the version was registered by other software, so nothing is known.
    """
    actual = folder_digest(folder)
    if expected is not None and actual != expected:
        raise ValueError(
            f"{what}: digest of {folder} is {actual}, but {expected} was registered; the files were changed "
            "or damaged: restore them, or register the run again"
        )
