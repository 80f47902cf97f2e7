"""The store of runs: where it is created, which stores are refused, what it loads."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import mlflow
import pytest

from pipelines.registry import store
from pipelines.registry.runs.tracker import Tracker

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "mlruns", "/data/mlruns"])
def test_a_folder_as_store_is_refused(uri):
    with pytest.raises(ValueError, match=f"tracking_uri '{uri}' is a folder.*sqlite:///FOLDER/mlflow.db"):
        store.connect(uri)


def test_a_deleted_experiment_is_refused(experiment):
    identity = store.ensure_experiment(experiment)
    mlflow.MlflowClient().delete_experiment(identity)
    with pytest.raises(
        ValueError, match=f"is deleted; run: mlflow experiments restore --experiment-id {identity}"
    ):
        Tracker(experiment, "abc")


def test_a_new_store_prints_nothing_and_stays_in_its_folder(tmp_path):
    script = (
        "from pipelines.registry import store; from pipelines.registry.runs.tracker import Tracker\n"
        "store.connect('sqlite:///my store/mlflow.db')\n"
        "t = Tracker('e', 'abc'); t.log_config('a: 1'); t.finish({'m': 1.0})"
    )
    (tmp_path / "elsewhere").mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "my store"]
    assert sorted(path.name for path in (tmp_path / "my store").iterdir()) == ["artifacts", "mlflow.db"]


def test_artifacts_go_to_the_configured_folder(tmp_path, store_folder):
    store.connect(f"sqlite:///{store_folder}/mlflow.db", str(tmp_path / "files"))
    Tracker("with its own root", "abc").log_config("a: 1")
    assert [path.name for path in (tmp_path / "files").rglob("config.yaml")] == ["config.yaml"]
    store.connect(f"sqlite:///{store_folder}/mlflow.db")


def test_reading_the_store_loads_no_heavy_package(tmp_path):
    script = (
        "import sys\n"
        "from pipelines.registry import store; from pipelines.registry.gate import apply\n"
        "from pipelines.registry.runs import current, tracker\n"
        "from pipelines.registry.versions import resolve\n"
        "heavy = ['matplotlib', 'torch', 'transformers', 'mlflow.pyfunc', 'sklearn']\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_an_older_schema_names_the_command_to_run(tmp_path):
    """A real store, whose last migration is undone in the record of its schema."""
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config

    uri = f"sqlite:///{tmp_path}/old.db"
    store.connect(uri)
    script = ScriptDirectory.from_config(_get_alembic_config(uri))
    before = script.get_revision(script.get_current_head()).down_revision
    with closing(sqlite3.connect(tmp_path / "old.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = ?", (before,))
    opening = f"from pipelines.registry.store import connect; connect({uri!r})"
    done = subprocess.run(
        [sys.executable, "-c", opening],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 1
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith(f"RuntimeError: {uri}: out-of-date database schema")
    assert said.endswith(f"run: mlflow db upgrade {uri}")


def test_several_drivers_create_one_store_together(tmp_path):
    opening = f"from pipelines.registry.store import connect; connect('sqlite:///{tmp_path}/new.db')"
    drivers = [
        subprocess.Popen(
            [sys.executable, "-c", opening],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for _ in range(3)
    ]
    said = [driver.communicate(timeout=240)[1] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0, 0], said
