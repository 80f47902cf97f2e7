"""Where workers get a model from: in place, copied from storage once, or sent by the driver."""

import multiprocessing
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from pyspark import SparkFiles

from pipelines.connect import needs_shipping
from pipelines.dataset.local_copies import copies_folder
from pipelines.registry.versions.resolve import LocatedModel
from pipelines.scoring import place as placing
from pipelines.scoring import pull, ship
from pipelines.scoring.place import place_model
from pipelines.scoring.pull import Place, open_place
from pipelines.storage import folder_digest
from pipelines.tables import PREDICTIONS
from tests.scoring.test_batch import ROWS, as_documents, in_place, score


def located(folder, *, digest=None, trained_in=None):
    return LocatedModel(
        name="intents",
        version=3,
        run_id="r1",
        uri="models:/intents/3",
        digest=digest or folder_digest(folder),
        trained_in=trained_in or str(folder),
    )


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The cache of this host, empty."""
    monkeypatch.setenv("DISTRIBUTARY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


TASK = "classification"


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def copy_in_process(place, queue):
    with open_place(place) as folder:
        queue.put((str(folder), folder.stat().st_ino))


def test_a_host_copies_a_model_from_storage_once(classifier_folder, home):
    place = Place("storage", str(classifier_folder), folder_digest(classifier_folder), "accuracy")
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=copy_in_process, args=(place, queue)) for _ in range(4)]
    for worker in workers:
        worker.start()
    opened = {queue.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
    ((folder, _),) = opened
    assert folder == str(home / place.digest)
    assert names(folder) == names(classifier_folder)
    assert names(home) == [place.digest, f"{place.digest}.lock"]


def test_a_changed_model_on_storage_is_refused(classifier_folder, home, tmp_path):
    changed = tmp_path / "changed"
    shutil.copytree(classifier_folder, changed)
    (changed / "config.json").write_text("{}")
    place = Place("storage", str(changed), folder_digest(classifier_folder), "accuracy")
    message = r"changed: digest of .* was registered; the files were changed"
    with pytest.raises(ValueError, match=message), open_place(place):
        pass
    assert names(home) == [f"{place.digest}.lock"]  # nothing that another worker would take for the model


def test_workers_score_with_a_model_from_storage(spark, classifier_folder, request):
    documents = as_documents(spark, ROWS).repartition(3, "doc_id").cache()
    copy = copies_folder("models") / folder_digest(classifier_folder)  # workers have the cache of the session
    request.addfinalizer(lambda: shutil.rmtree(copy))
    place = Place("storage", str(classifier_folder), folder_digest(classifier_folder), "accuracy")
    assert PREDICTIONS.digest(score(documents, place)) == PREDICTIONS.digest(
        score(documents, classifier_folder)
    )


def test_the_folder_of_the_training_comes_first(spark, classifier_folder):
    found = place_model(spark, located(classifier_folder))
    assert found == Place(
        "folder", str(classifier_folder), folder_digest(classifier_folder), "accuracy", False, TASK
    )


def test_a_changed_folder_of_the_training_is_refused(spark, classifier_folder):
    with pytest.raises(ValueError, match=r"models:/intents/3: digest of .*, but 0000 was registered"):
        place_model(spark, located(classifier_folder, digest="0000"))


@pytest.mark.parametrize("executors_see_it", [True, False])
def test_the_driver_sends_what_executors_do_not_see(spark, classifier_folder, monkeypatch, executors_see_it):
    """As on a cluster of several hosts, whose disks are or are not shared."""
    from pipelines.registry.versions import resolve

    monkeypatch.setattr(placing, "needs_shipping", lambda context: True)
    fetched = SimpleNamespace(folder=classifier_folder)
    monkeypatch.setattr(resolve, "fetch_model", lambda model: fetched)
    if not executors_see_it:
        monkeypatch.setattr(placing, "_is_seen", lambda spark, folder: False)
    found = place_model(spark, located(classifier_folder))
    assert found.kind == ("folder" if executors_see_it else "shipped")
    documents = as_documents(spark, ROWS).repartition(3, "doc_id").cache()
    expected = PREDICTIONS.digest(score(documents, in_place(classifier_folder)))
    assert PREDICTIONS.digest(score(documents, found)) == expected


def test_a_shipped_folder_arrives_whole(spark, classifier_folder):
    name = ship.ship_folder(spark, classifier_folder)
    one_task = spark.sparkContext.parallelize([0], 1)
    arrived = one_task.map(
        lambda _: sorted(path.name for path in Path(SparkFiles.get(name)).iterdir())
    ).first()
    assert arrived == names(classifier_folder)


@pytest.mark.parametrize(
    ("master", "needed"),
    [
        ("local", False),
        ("local[2,4]", False),
        ("local-cluster[2,2,1024]", True),
        ("spark://h:7077", True),
        ("yarn", True),
    ],
)
def test_workers_of_a_cluster_may_need_a_copy(master, needed):
    spark = SimpleNamespace(sparkContext=SimpleNamespace(master=master))
    assert needs_shipping(spark) is needed


def test_a_worker_pulls_without_mlflow_and_torch():
    import subprocess
    import sys

    code = "import sys, pipelines.scoring.batch; print(sorted({'torch', 'mlflow'} & set(sys.modules)))"
    checkout = Path(pull.__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=checkout
    )
    assert ended.stdout.strip() == "[]"
