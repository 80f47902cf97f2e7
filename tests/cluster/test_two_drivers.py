"""Two drivers score into one table on S3 at the same time: each row is there once, and no commit is lost."""

import pytest

from tests.cluster.cluster import LAKE

pytestmark = pytest.mark.cluster

ONE_SLOT = {"spark.cores.max": "2", "spark.executor.cores": "1"}
"""Both applications run at once: each takes one slot of each host."""
CASES = {"other rows": ("train", "test"), "same rows": ("test", "test")}


@pytest.mark.parametrize(
    ("case", "attempt"),
    [
        ("same rows", 1),
        pytest.param("other rows", 1, marks=pytest.mark.soak),
        *(pytest.param(case, number, marks=pytest.mark.soak) for case in CASES for number in (2, 3, 4, 5)),
    ],
)
def test_two_drivers_score_each_row_once(cluster, s3_flow, case, attempt):
    name = f"{case.replace(' ', '-')}-{attempt}"
    drivers = [
        cluster.submit(
            s3_flow,
            f"scoring.predictions={LAKE}/{name}/lake/predictions",
            f"scoring.split={split}",
            job="scoring",
            conf=ONE_SLOT,
        )
        for split in CASES[case]
    ]
    for driver in drivers:
        driver.finish()
    tables = cluster.results(f"{LAKE}/{name}", tables=s3_flow, name="tickets")["tables"]
    wanted = sum(tables["documents"]["splits"][split] for split in set(CASES[case]))
    assert tables["predictions"]["num_rows"] == tables["predictions"]["num_keys"] == wanted
