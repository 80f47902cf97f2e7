"""GPUs named by a discovery script, on executors that are processes: only the barrier stage asks for them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyspark
import pytest

pytestmark = [pytest.mark.horovod, pytest.mark.slow]

CHECKOUT = Path(__file__).parents[2]
# Each worker has one GPU of its own: the process id makes its UUID.
DISCOVERY = """#!/bin/sh
echo "{\\"name\\": \\"gpu\\", \\"addresses\\": [\\"GPU-$$\\"]}"
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpus")
    script = folder / "discover"
    script.write_text(DISCOVERY)
    script.chmod(0o755)
    # Executors start from SPARK_HOME and write into its folder `work`, so they get a home made of links.
    home = folder / "spark"
    home.mkdir()
    for part in Path(pyspark.__file__).parent.iterdir():
        (home / part.name).symlink_to(part)
    conf = {
        "spark.worker.resource.gpu.amount": "1",
        "spark.worker.resource.gpu.discoveryScript": str(script),
        "spark.executor.resource.gpu.amount": "1",
        "spark.ui.enabled": "false",
    }
    flags = " ".join(f"--conf {name}={value}" for name, value in conf.items())
    environment = {
        **os.environ,
        "PYTHONPATH": str(CHECKOUT),
        "SPARK_HOME": str(home),
        "SPARK_SCALA_VERSION": "2.13",
        "PYSPARK_SUBMIT_ARGS": f"--master local-cluster[2,2,1024] {flags} pyspark-shell",
    }
    command = [sys.executable, "-m", "tests.finetune.gpu_cluster"]
    ended = subprocess.run(
        command, cwd=CHECKOUT, env=environment, text=True, capture_output=True, timeout=500, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


def test_slots_are_counted_for_the_request_of_a_rank(seen):
    assert seen["slots"] == {"0.0": 4, "0.5": 4, "1.0": 2}


def test_each_rank_sees_the_gpu_that_spark_gave_it(seen):
    (first, first_visible, _), (second, second_visible, _) = seen["ranks"]
    assert first.startswith("GPU-")
    assert second.startswith("GPU-")
    assert first != second
    assert (first_visible, second_visible) == (first, second)


def test_two_ranks_can_share_each_gpu(seen):
    gpus = [gpu for gpu, _, _ in seen["shared"]]
    assert sorted(gpus.count(gpu) for gpu in set(gpus)) == [2, 2]


def test_ranks_that_ask_for_no_gpu_get_none(seen):
    assert seen["without"] == [[None, None, None], [None, None, None]]


def test_other_stages_keep_all_slots(seen):
    assert seen["at_once"] == 4


def test_more_ranks_than_gpus_are_refused_with_the_remedy(seen):
    assert seen["refused"].startswith(
        "finetune.num_ranks is 3, but local-cluster[2,2,1024] runs 2 tasks with 1 GPU"
    )
    assert "set finetune.num_ranks=2 or give Spark more executors" in seen["refused"]
    assert "spark.executor.resource.gpu.amount" in seen["refused"]
