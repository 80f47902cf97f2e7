"""One setting of storage, translated for four clients, without its keys where others could read them."""

import os
import pickle
import subprocess
import sys
import time

import pytest

from pipelines import stores
from pipelines.stores import (
    S3,
    Hdfs,
    Stores,
    carry,
    complete,
    configure,
    delta_options,
    secret_conf,
    spark_conf,
)
from pipelines.stores_check import find_fix, require_reachable
from tests.processes import CHECKOUT
from tests.servers.daemon import free_port
from tests.servers.s3 import refusing

MINIO = S3(
    endpoint="http://store:9000",
    region="eu-west-1",
    credentials="keys",
    access_key="AK1",
    secret_key="hunter22",
)


@pytest.fixture(autouse=True)
def configured(monkeypatch):
    """No settings from the machine, and none for the tests after this one."""
    for name in (
        "ENDPOINT_URL",
        "ENDPOINT_URL_S3",
        "REGION",
        "DEFAULT_REGION",
        "ACCESS_KEY_ID",
        "SECRET_ACCESS_KEY",
    ):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    for name in ("HADOOP_CONF_DIR", "HADOOP_USER_NAME", "SPARK_USER", "MLFLOW_S3_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(stores, "_configured", Stores())


def test_one_endpoint_reaches_delta_rs_and_hadoop():
    delta, spark = delta_options("s3a://lake/t", Stores(s3=MINIO)), spark_conf(Stores(s3=MINIO))
    assert {name: value for name, value in delta.items() if name.startswith("aws_")} == {
        "aws_endpoint_url": "http://store:9000",
        "aws_allow_http": "true",
        "aws_region": "eu-west-1",
        "aws_virtual_hosted_style_request": "false",
        "aws_access_key_id": "AK1",
        "aws_secret_access_key": "hunter22",
    }
    assert spark["spark.hadoop.fs.s3a.endpoint"] == "http://store:9000"
    assert spark["spark.hadoop.fs.s3a.endpoint.region"] == "eu-west-1"
    assert spark["spark.hadoop.fs.s3a.path.style.access"] == "true"
    assert spark["spark.hadoop.fs.s3a.connection.ssl.enabled"] == "false"
    assert secret_conf(Stores(s3=MINIO)) == {"fs.s3a.access.key": "AK1", "fs.s3a.secret.key": "hunter22"}


def test_aws_itself_needs_no_endpoint_and_no_path_style():
    spark = spark_conf(Stores(s3=S3(region="eu-west-1")))
    assert not {"endpoint", "path.style.access"} & {
        name.removeprefix("spark.hadoop.fs.s3a.") for name in spark
    }
    assert delta_options("s3://lake/t", Stores())["aws_virtual_hosted_style_request"] == "true"
    assert delta_options("/data/t") == {}


def test_keys_stand_neither_in_spark_s_settings_nor_in_a_text():
    assert "hunter22" not in str(spark_conf(Stores(s3=MINIO)))
    assert "hunter22" not in repr(Stores(s3=MINIO))
    assert "AK1" not in repr(Stores(s3=MINIO))


def test_the_environment_completes_what_is_left_open():
    environment = {
        "AWS_ENDPOINT_URL": "https://env:1/",
        "AWS_REGION": "eu-west-3",
        "AWS_ACCESS_KEY_ID": "AK2",
        "AWS_SECRET_ACCESS_KEY": "hunter33",
        "AWS_SESSION_TOKEN": "T",
        "HADOOP_CONF_DIR": "/etc/hadoop",
    }
    found = complete(Stores(), environment)
    assert found.s3 == S3(
        endpoint="https://env:1",
        region="eu-west-3",
        credentials="keys",
        access_key="AK2",
        secret_key="hunter33",
        session_token="T",
    )
    assert found.hdfs == Hdfs(conf_dir="/etc/hadoop")
    assert complete(Stores(s3=MINIO), environment).s3 == MINIO
    assert complete(Stores(s3=S3(credentials="anonymous")), environment).s3.access_key is None


def test_mlflow_finds_endpoint_and_keys_in_the_environment(monkeypatch):
    environment = {"AWS_REGION": "eu-west-3"}
    monkeypatch.setattr(os, "environ", environment)
    configure(Stores(s3=MINIO))
    stores.export_to_mlflow()
    assert environment == {
        "AWS_REGION": "eu-west-3",
        "MLFLOW_S3_ENDPOINT_URL": "http://store:9000",
        "AWS_ACCESS_KEY_ID": "AK1",
        "AWS_SECRET_ACCESS_KEY": "hunter22",
    }
    environment |= {"AWS_ACCESS_KEY_ID": "AK2", "AWS_SECRET_ACCESS_KEY": "hunter33"}
    stores.export_to_mlflow()
    assert environment["AWS_SECRET_ACCESS_KEY"] == "hunter33"


def test_options_and_keys_of_a_path_win():
    path = "s3://AK3:a%2Fb@lake/x?endpoint_override=other:1&scheme=http&region=eu-west-2"
    s3 = stores.s3_for(path, Stores(s3=MINIO))
    assert (s3.endpoint, s3.region) == ("http://other:1", "eu-west-2")
    assert (s3.access_key, s3.secret_key) == ("AK3", "a/b")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"credentials": "keys", "access_key": "a"},
            "credentials is keys, .* not both set; use credentials: keys",
        ),
        ({"access_key": "a", "secret_key": "hunter22"}, "credentials is environment, .* are both set"),
        ({"endpoint": "store:9000"}, "endpoint must be http://HOST:PORT"),
        ({"endpoint": "http://me:hunter22@store"}, "without user, path and options"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(values, message):
    with pytest.raises(ValueError, match=message) as raised:
        S3(**values)
    assert "hunter22" not in str(raised.value)


def test_a_carried_function_finds_the_settings_elsewhere(tmp_path):
    configure(Stores(s3=MINIO, patience_seconds=7))
    # Spark sends functions to its workers as pickles; this is the same way into another process.
    (tmp_path / "carried").write_bytes(pickle.dumps(carry(delta_options)))
    code = (
        f"import pickle; f = pickle.load(open({str(tmp_path / 'carried')!r}, 'rb')); print(f('s3://lake/t'))"
    )
    shown = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=CHECKOUT)
    assert "'aws_endpoint_url': 'http://store:9000'" in shown
    assert "'retry_timeout': '7s'" in shown


@pytest.mark.parametrize(("given", "found"), [(None, "ana"), ("bo", "bo")])
def test_python_is_the_hdfs_user_who_submitted(monkeypatch, given, found):
    monkeypatch.setenv("HADOOP_USER_NAME", given or "")
    if given is None:
        monkeypatch.delenv("HADOOP_USER_NAME")
    configure(Stores())
    assert os.environ.get("HADOOP_USER_NAME") == given  # a driver that runs here is its own user
    monkeypatch.setenv("SPARK_USER", "ana")  # as Spark sets it for executors
    configure(Stores())
    assert os.environ["HADOOP_USER_NAME"] == found


def test_a_first_look_tries_once_and_work_tries_for_a_while():
    assert delta_options("s3://b/t", Stores(patience_seconds=0))["max_retries"] == "0"
    assert delta_options("s3://b/t", Stores(patience_seconds=30))["retry_timeout"] == "30s"
    # 0.5 + 1 + 2 + 4 s, then 5 s each.
    assert (
        delta_options("hdfs://h/t", Stores(patience_seconds=60))["dfs.client.failover.max.attempts"] == "17"
    )
    assert delta_options("hdfs://h/t", Stores(patience_seconds=0))["dfs.client.failover.max.attempts"] == "1"
    # Hadoop: 4 times 5 pauses of 3 s for the name node; 0 + 3 + 6 + ... + 15 s and random times for a block.
    names = ("retry.policy.enabled", "retry.policy.spec", "max.block.acquire.failures")
    waiting, quick = (
        [spark_conf(Stores(patience_seconds=seconds))[f"spark.hadoop.dfs.client.{name}"] for name in names]
        for seconds in (60, 0)
    )
    assert waiting == ["true", "3000,4", "6"]
    assert quick == ["false", "3000,1", "3"]


@pytest.mark.parametrize("scheme", ["s3", "hdfs"])
def test_a_store_that_is_not_there_is_named_within_seconds(scheme):
    closed = f"127.0.0.1:{free_port()}"
    configure(
        Stores(s3=S3(endpoint=f"http://{closed}", credentials="keys", access_key="a", secret_key="hunter22"))
    )
    started = time.monotonic()
    with pytest.raises(
        OSError, match=r"cannot be used .*start the storage, or correct its address"
    ) as raised:
        require_reachable("s3a://lake/x" if scheme == "s3" else f"hdfs://{closed}/x")
    assert time.monotonic() - started < 15
    assert "hunter22" not in str(raised.value)


def test_refused_keys_are_named_with_the_remedy():
    with refusing() as endpoint:
        configure(Stores(s3=S3(endpoint=endpoint, credentials="keys", access_key="a", secret_key="hunter22")))
        with pytest.raises(OSError, match=r"InvalidAccessKeyId: .*; correct the keys \(AWS_ACCESS_KEY_ID"):
            require_reachable("s3a://lake/x")


def test_a_local_folder_needs_no_look():
    require_reachable("/no/such/folder")


@pytest.mark.parametrize(
    ("problem", "fix"),
    [
        ("Class org.apache.hadoop.fs.s3a.S3AFileSystem not found", "make jars"),
        ("org.apache.hadoop.fs.s3a.UnknownStoreException: `s3a://nolake/h'", "create the bucket"),
        ("java.nio.file.AccessDeniedException: s3a://lake/h", "correct the keys"),
        ("java.net.ConnectException: Call From vm to localhost:1 failed", "start the storage"),
        ("something else", "the address is s3://lake/x"),
    ],
)
def test_a_problem_has_a_remedy(problem, fix):
    assert fix in find_fix(problem, "s3://lake/x")
