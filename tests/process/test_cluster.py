"""The five stages on a cluster: executors are separate processes that share only storage with the driver."""

import os
import subprocess
import sys
from pathlib import Path

import pyspark
import pytest

from jobs import finetune
from pipelines.finetune.results import read_result
from pipelines.tables import DOCUMENTS, PREDICTIONS, QUARANTINE, SEQUENCES
from tests.conftest import flow_overrides, write_tickets
from tests.processes import SHORT_JVM

pytestmark = [pytest.mark.horovod, pytest.mark.slow]

CHECKOUT = Path(__file__).parents[2]
PATIENCE_SECONDS = 600


@pytest.fixture(scope="module")
def cluster_flow(tmp_path_factory):
    """A flow that ran on two executors of one slot each: its folder, and what the driver printed."""
    folder = tmp_path_factory.mktemp("clustered")
    write_tickets(folder / "raw")
    # Executors start from SPARK_HOME and write into its folder `work`, so they get a home made of links.
    home = folder / "spark"
    home.mkdir()
    for part in Path(pyspark.__file__).parent.iterdir():
        (home / part.name).symlink_to(part)
    master = "--master local-cluster[2,1,1024]"
    environment = {
        **os.environ,
        "PYTHONPATH": str(CHECKOUT),
        "SPARK_HOME": str(home),
        "SPARK_SCALA_VERSION": "2.13",
        "PYSPARK_SUBMIT_ARGS": f"{master} --conf 'spark.executor.extraJavaOptions={SHORT_JVM}' pyspark-shell",
    }
    ended = subprocess.run(
        [sys.executable, "-m", "jobs.run", *flow_overrides(folder)],
        cwd=CHECKOUT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    return folder, ended.stdout


def test_cluster_gives_tables_and_weights_of_one_machine(spark, flow, cluster_flow):
    folder, output = cluster_flow
    assert len(list((folder / "spark" / "work").glob("app-*/*/stderr"))) == 2, (
        output
    )  # two executors did the work
    for table in (DOCUMENTS, QUARANTINE, SEQUENCES, PREDICTIONS):
        here, there = (table.read(spark, f"{each}/lake/{table.name}") for each in (flow.folder, folder))
        assert table.digest(there) == table.digest(here), table.name
    (result,) = [read_result(str(run)) for run in (folder / "lake" / "finetune").iterdir() if run.is_dir()]
    assert (
        result["weights"] == read_result(finetune.plan(flow.configs["finetune"]).inputs[0].folder)["weights"]
    )


def test_executors_that_see_the_model_get_no_copy(cluster_flow):
    """The folder of the training lies on a disk that they share with the driver."""
    folder, _ = cluster_flow
    assert list((folder / "lake" / "finetune").glob("*/model/model.safetensors"))
    assert not list((folder / "spark" / "work").glob("app-*/*/model-*"))
