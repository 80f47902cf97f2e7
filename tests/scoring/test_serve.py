"""The model behind a port, as a user starts it: requests over HTTP, compared with the Predictor in this
process.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.error import HTTPError, URLError

import pytest

import pipelines.scoring
from pipelines.registry import store
from pipelines.registry.runs.tracker import Tracker
from pipelines.registry.versions.aliases import promote
from pipelines.registry.versions.register import register_model
from pipelines.scoring.predict import Predictor

pytestmark = pytest.mark.slow

TEXTS = ["my card was lost", "", "请给我退款"]
START_SECONDS = 180


@pytest.fixture(scope="module")
def registry(tmp_path_factory, classifier_folder):
    """A store with the registered model "intents"; its champion is the tiny classifier."""
    folder = tmp_path_factory.mktemp("served store")
    store.connect(f"sqlite:///{folder}/mlflow.db")
    tracker = Tracker("serving", "abc")
    tracker.finish()
    script = Path(pipelines.scoring.__file__).with_name("serve.py")
    version = register_model(tracker.run_id, classifier_folder, "intents", code=script, input_example=TEXTS)
    promote("intents", version)
    return f"sqlite:///{folder}/mlflow.db"


@pytest.fixture(scope="module")
def server(registry, tmp_path_factory):
    """Address of `mlflow models serve`, started in another folder than the project; ended with all its
    children.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    away = tmp_path_factory.mktemp("away")
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "models",
        "serve",
        "-m",
        "models:/intents@champion",
        "--env-manager",
        "local",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    # As in an activated environment, because MLflow starts uvicorn by name.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"MLFLOW_TRACKING_URI": registry, "PATH": path}
    with (away / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=away, stdout=log, stderr=log, start_new_session=True, env=environment
        )
        try:
            wait_for_answer(f"http://127.0.0.1:{port}/ping", process, away / "log")
            yield f"http://127.0.0.1:{port}"
        finally:
            end(process)


def end(process):
    for kind in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, kind)
            process.wait(15)


def wait_for_answer(address, process, log):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.3)
    pytest.fail(f"no answer after {START_SECONDS} s: {log.read_text()}")


def post(server, payload):
    request = urllib.request.Request(
        f"{server}/invocations", json.dumps(payload).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["predictions"]


@pytest.mark.parametrize(
    "payload",
    [
        {"dataframe_split": {"columns": ["text"], "data": [[text] for text in TEXTS]}},
        {"dataframe_records": [{"text": text} for text in TEXTS]},
        {"inputs": {"text": TEXTS}},
        {"inputs": [{"text": text} for text in TEXTS]},
        {"inputs": TEXTS},
        {"instances": [{"text": text} for text in TEXTS]},
    ],
    ids=[
        "dataframe_split",
        "dataframe_records",
        "inputs_columns",
        "inputs_rows",
        "inputs_texts",
        "instances",
    ],
)
def test_every_payload_format_gets_the_same_predictions(server, classifier_folder, payload):
    answer = post(server, payload)
    expected = Predictor.load(classifier_folder).predict(TEXTS)
    assert [row["prediction"] for row in answer] == [p.prediction for p in expected]
    assert [row["score"] for row in answer] == pytest.approx([p.score for p in expected], abs=1e-5)


@pytest.mark.parametrize(
    "payload",
    [
        {"dataframe_split": {"columns": ["txt"], "data": [["a"]]}},
        {"dataframe_split": {"columns": ["text"], "data": [[None]]}},
    ],
)
def test_a_wrong_payload_is_a_client_error(server, payload):
    with pytest.raises(HTTPError) as refused:
        post(server, payload)
    with refused.value:
        assert refused.value.code == 400
        assert "text" in json.load(refused.value)["message"]
