"""One S3 server and one HDFS for all tests of this folder: each starts in about 10 s."""

import pytest

from tests.servers.hdfs import hdfs_cluster
from tests.servers.s3 import s3_server


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def hdfs(tmp_path_factory):
    with hdfs_cluster(tmp_path_factory.mktemp("hdfs")) as cluster:
        yield cluster
