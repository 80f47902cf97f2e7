"""One SQLite store for the run (its migrations take seconds); every test takes names of its own."""

import pytest

from pipelines.registry import store


@pytest.fixture(scope="session")
def store_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("registry store")


@pytest.fixture
def connected(store_folder):
    store.connect(f"sqlite:///{store_folder}/mlflow.db")
    return store_folder


@pytest.fixture
def experiment(connected, request):
    return f"experiment {request.node.name}"


@pytest.fixture
def model_name(request):
    return request.node.name.replace("[", "-").replace("]", "")
