"""What a stage asks the store before it decides whether it has work. Equal questions to an unchanged store
are free.

Loading MLflow and opening a SQLite store takes about ten times as long as loading all other packages of the
command line (measured on a busy machine: 7 + 4 s of CPU against 1 s), which would be most of the time of a
second run that has nothing to do. A SQLite store is a file: while it is unchanged, so are its answers. They
are kept in a file beside it, with the state of the store that they belong to. Other stores are asked every
time.
"""

import json
import logging
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.registry.gate.decide import KeptVerdict
from pipelines.registry.paths import sqlite_path
from pipelines.registry.runs.data import RunData

logger = logging.getLogger(__name__)

HEADER_BYTES = 100
"""Header of a SQLite file. Bytes 24 to 27 count its transactions (https://www.sqlite.org/fileformat.html,
1.3.7)."""


class VersionRef(NamedTuple):
    """One model version, without its files."""

    name: str
    version: int
    run_id: str


class Lookup:
    """Answers about runs and versions.

    Nothing is written; before a stage writes to the store, it calls `connect`.
    """

    def __init__(self, tracking_uri: str, artifact_root: str | None = None) -> None:
        self._uri, self._artifact_root = tracking_uri, artifact_root

    def find_finished_run(self, experiment: str, fingerprint: str) -> str | None:
        """Id of the newest run with this fingerprint, if it is finished; None if there is none."""

        def ask() -> str | None:
            from pipelines.registry.runs.tracker import find_run

            run = find_run(experiment, fingerprint)
            return None if run is None or run.info.status != "FINISHED" else str(run.info.run_id)

        answer = self._answer(["finished run", experiment, fingerprint], ask)
        return None if answer is None else str(answer)

    def read_run_status(self, run_id: str) -> str:
        """MLflow's status, "deleted" for a deleted run, "unknown" if MLflow has no such run."""

        def ask() -> str:
            from pipelines.registry.runs.tracker import read_run_status

            return read_run_status(run_id)

        return str(self._answer(["run status", run_id], ask))

    def read_run_data(self, run_id: str) -> RunData:
        """The rows of a training's run, and their order; see `runs.data`."""

        def ask() -> dict[str, Any]:
            from pipelines.registry.runs.data import read_run_data

            return read_run_data(run_id)._asdict()

        return RunData(**self._answer(["run data", run_id], ask))

    def read_history(self, run_id: str, key: str) -> dict[int, float]:
        """Step -> value of a metric of a run. Asked every time."""
        from mlflow import MlflowClient

        self.connect()
        return {point.step: point.value for point in MlflowClient().get_metric_history(run_id, key)}

    def find_version(self, name: str, alias_or_version: str | int) -> VersionRef:
        """The version of an alias or number. Raises LookupError that names what exists."""

        def ask() -> list[Any]:
            from pipelines.registry.versions.find import find_version

            version = find_version(name, alias_or_version)
            return [int(version.version), str(version.run_id)]

        version, run_id = self._answer(["version", name, str(alias_or_version)], ask)
        return VersionRef(name, version, run_id)

    def find_base(self, name: str) -> dict[str, Any]:
        """What the store knows of models:/NAME/VERSION or models:/NAME@ALIAS; see `versions.listing`."""

        def ask() -> dict[str, Any]:
            from pipelines.registry.versions.listing import list_model

            return list_model(name)

        return dict(self._answer(["base with adapter", name], ask))

    def list_base(self, name: str) -> dict[str, Any]:
        """The same of runs:/RUN_ID/PATH. Asked every time: files are added to a run beside the database."""
        from pipelines.registry.versions.listing import list_path

        self.connect()
        return list_path(name)

    def connect(self) -> None:
        """Point MLflow at the store; see `registry.store`."""
        from pipelines.registry.store import connect  # loads MLflow

        connect(self._uri, self._artifact_root)

    def find_verdict(self, name: str, run_id: str, *, made_from: str) -> KeptVerdict | None:
        """The verdict on a model of this run for these inputs; None if there is none yet."""

        def ask() -> KeptVerdict | None:
            from pipelines.registry.gate.apply import find_verdict

            return find_verdict(name, run_id, made_from=made_from)

        answer = self._answer(["verdict", name, run_id, made_from], ask)
        return None if answer is None else KeptVerdict(*answer)

    def read_last_verdict(self, name: str) -> str:
        """Fingerprint of the inputs of the last verdict on any version of `name`; empty if there was none."""

        def ask() -> str:
            from pipelines.registry.gate.apply import read_last_verdict

            return read_last_verdict(name)

        return str(self._answer(["last verdict", name], ask))

    def _answer(self, question: list[str], ask: Callable[[], Any]) -> Any:
        """The kept answer if the store is unchanged since then, else the store's. Errors are not kept."""
        path, key = sqlite_path(self._uri), json.dumps(question)
        before = None if path is None else read_state(path)
        if path is not None and before is not None:
            kept = _read_answers(path, before)
            if key in kept:
                return kept[key]
        self.connect()
        state = None if path is None else read_state(path)  # connecting may have created the store
        answer = ask()
        # If the store has changed, the answer may belong to the new state. It is not kept under the old one,
        # which a restored backup could bring back.
        if path is not None and state is not None and state == read_state(path):
            _keep_answer(path, state, key, answer)
        return answer


def read_state(path: Path) -> list[str] | None:
    """State of a SQLite file: equal states mean equal content. None if the content may change without the
    file.

    Names the files of the database with inode, size and time, and the header, whose counter also tells apart
    two changes within one tick of the clock. None if there is no file, or a journal: SQLite may then roll
    back a transaction.
    """
    state = []
    try:
        for file in (path, path.with_name(f"{path.name}-wal")):
            if file == path or file.exists():
                info = file.stat()
                state.append(f"{file.name} {info.st_ino} {info.st_size} {info.st_mtime_ns}")
        with path.open("rb") as stream:
            state.append(stream.read(HEADER_BYTES).hex())
    except OSError:
        return None
    return None if path.with_name(f"{path.name}-journal").exists() else state


def answers_file(path: Path) -> Path:
    """Where the answers of the SQLite store `path` are kept."""
    return path.with_name(f".{path.name}.answers.json")


def _read_answers(path: Path, state: list[str]) -> dict[str, Any]:
    """Kept answers of this state; empty if there are none or the file cannot be read."""
    try:
        kept = json.loads(answers_file(path).read_text(encoding="utf-8"))
        return dict(kept["answers"]) if kept["state"] == state else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _keep_answer(path: Path, state: list[str], key: str, answer: Any) -> None:
    """Add one answer.

    The file is replaced in one step: of two drivers that write, one loses an answer and asks again.
    """
    content = {"state": state, "answers": {**_read_answers(path, state), key: answer}}
    part = answers_file(path).with_name(f".{path.name}.answers-{uuid.uuid4().hex}.part")
    try:
        part.write_text(json.dumps(content), encoding="utf-8")
        part.replace(answers_file(path))
    except OSError as error:
        logger.debug("answers of %s are not kept: %s", path, error)
        part.unlink(missing_ok=True)
