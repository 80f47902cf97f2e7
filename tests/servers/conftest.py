"""One S3 server and one HDFS for all tests of this folder: each starts in about 10 s."""

import pytest

from pipelines.stores import S3, Stores, configure
from tests.servers.hdfs import hdfs_cluster
from tests.servers.s3 import BUCKET, s3_server


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def hdfs(tmp_path_factory):
    with hdfs_cluster(tmp_path_factory.mktemp("hdfs")) as cluster:
        yield cluster


@pytest.fixture
def configured(s3):
    """This process reaches the S3 server; HDFS needs no settings."""
    keys = {"credentials": "keys", "access_key": "tests", "secret_key": "a-key-of-tests"}
    configure(Stores(s3=S3(endpoint=s3.endpoint, **keys), patience_seconds=60))
    yield
    configure(Stores())


@pytest.fixture(params=["s3", "hdfs"])
def root(request, configured, tmp_path):
    """A new folder in each storage."""
    base = f"s3a://{BUCKET}" if request.param == "s3" else request.getfixturevalue("hdfs").uri
    return f"{base}/{tmp_path.name}"


@pytest.fixture
def servers(s3, hdfs):
    """Scheme -> what to stop so that the storage does not answer."""
    return {"s3a": s3, "hdfs": hdfs.name_node}
