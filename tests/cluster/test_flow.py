"""The small flow on two hosts gives what it gives on one machine. On HDFS: test_faults, test_connect."""

import copy

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.horovod]


def require_same_rows(found, expected):
    """Equal but for the digest of the predictions, which covers the model's name: every run has its own."""
    found, expected = copy.deepcopy((found, expected))
    for results in (found, expected):
        del results["tables"]["predictions"]["digest"]
    assert found == expected


def test_flow_on_s3_equals_one_machine(cluster, s3_flow, expected):
    assert cluster.results(s3_flow) == expected


def test_both_hosts_did_the_work(cluster, s3_flow):
    for host in cluster.workers:
        # Executors take the model from S3, once per host.
        assert list((host.behind / "cache" / "models").glob("*/model.safetensors")), host.name
    copies = [list((host.behind / "cache" / "sequences").glob("*/")) for host in cluster.workers]
    assert all(copies), "ranks on both hosts copied the sequences that they read"
