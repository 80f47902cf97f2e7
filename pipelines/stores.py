"""How storage is reached: one setting per process, from which every client gets its own.

Four clients read and write tables and files: Arrow (files of a corpus), object_store (files beside the
tables), delta-rs (Delta logs without a JVM) and Hadoop (Spark). Each has names of its own for endpoint,
region, keys and patience. `Stores` holds them once, `configure` sets them for the process, and the functions
below translate. `carry` takes them to the processes of executors.

Imports no client, so that a configuration can be checked without one.
"""

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, TypeVar
from urllib.parse import unquote

from pipelines.paths import split_options, split_scheme

_Result = TypeVar("_Result")

Credentials = Literal["environment", "anonymous", "keys"]
S3_SCHEMES = ("s3", "s3a", "s3n")
DEFAULT_REGION = "us-east-1"
"""For a server with an endpoint of its own; requests are signed with it."""
CONNECT_SECONDS = 5
"""A server that takes longer to accept a connection is not there."""
ANONYMOUS = "org.apache.hadoop.fs.s3a.AnonymousAWSCredentialsProvider"
SIMPLE = "org.apache.hadoop.fs.s3a.SimpleAWSCredentialsProvider"
TEMPORARY = "org.apache.hadoop.fs.s3a.TemporaryAWSCredentialsProvider"


@dataclass(frozen=True, kw_only=True, slots=True)
class S3:
    """s3:// and s3a://, on AWS or any server that speaks its protocol."""

    endpoint: str | None = None
    """http(s)://HOST:PORT; null = AWS_ENDPOINT_URL, else AWS itself."""
    region: str | None = None
    """null = AWS_REGION, else us-east-1 with an endpoint, else the region of the bucket."""
    path_style: bool | None = None
    """ENDPOINT/BUCKET instead of BUCKET.ENDPOINT; null = with an endpoint."""
    credentials: Credentials = "environment"
    """environment = AWS_ACCESS_KEY_ID and its family on the driver, else the role of each machine."""
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.endpoint and not re.fullmatch(r"https?://[^/@?#]+", self.endpoint.rstrip("/")):
            raise ValueError(
                "endpoint must be http://HOST:PORT or https://HOST:PORT, without user, path and options"
            )
        has_keys = bool(self.access_key and self.secret_key)
        if (self.credentials == "keys") != has_keys:
            raise ValueError(
                f"credentials is {self.credentials}, and access_key and secret_key are "
                f"{'both' if has_keys else 'not both'} set; use credentials: keys with both keys, from "
                "${oc.env:NAME}, and no keys otherwise"
            )

    @property
    def is_path_style(self) -> bool:
        return bool(self.endpoint) if self.path_style is None else self.path_style


@dataclass(frozen=True, kw_only=True, slots=True)
class Hdfs:
    """hdfs://."""

    conf_dir: str | None = None
    """Folder with core-site.xml and hdfs-site.xml (name services, Kerberos); null = HADOOP_CONF_DIR."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stores:
    """Section `storage` of the configuration."""

    s3: S3 = field(default_factory=S3)
    hdfs: Hdfs = field(default_factory=Hdfs)
    patience_seconds: float = 60.0
    """How long work that has started tries again while storage does not answer. 0 = not at all: for the
    first look at a storage, which must fail quickly."""

    def __post_init__(self) -> None:
        if self.patience_seconds < 0:
            raise ValueError(f"patience_seconds must be at least 0, got {self.patience_seconds}")


_configured = Stores()


def configure(stores: Stores) -> None:
    """Use these settings in this process from now on.

    The folder of Hadoop's configuration goes into the environment: delta-rs and the JVM look there. So does
    the user of HDFS. The JVM of an executor is the one who submitted (SPARK_USER), whatever account of the
    machine it runs under; Python beside it must be the same one. Kerberos does not use this name.
    """
    global _configured
    _configured = stores
    if stores.hdfs.conf_dir:
        os.environ["HADOOP_CONF_DIR"] = stores.hdfs.conf_dir
    if user := os.environ.get("SPARK_USER"):
        os.environ.setdefault("HADOOP_USER_NAME", user)


def export_to_mlflow() -> None:
    """Tell MLflow's client for artifacts in S3, which reads the environment only. Variables that the user set
    stay."""
    s3 = current().s3
    if s3.endpoint:
        os.environ.setdefault("MLFLOW_S3_ENDPOINT_URL", s3.endpoint)
    if "AWS_ACCESS_KEY_ID" not in os.environ:
        os.environ.update({f"AWS_{name.upper()}": value for name, value in _keys(s3).items()})


def current() -> Stores:
    """The settings of this process, completed from its environment."""
    return complete(_configured, os.environ)


def complete(stores: Stores, environment: Mapping[str, str]) -> Stores:
    """`stores`, with what it leaves open taken from the variables that AWS's and Hadoop's clients know."""
    s3 = stores.s3
    endpoint = s3.endpoint or environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    region = s3.region or environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    s3 = replace(s3, endpoint=(endpoint or "").rstrip("/") or None, region=region or None)
    keys = [environment.get(f"AWS_{name}") for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY")]
    if s3.credentials == "environment" and all(keys):
        token = environment.get("AWS_SESSION_TOKEN") or None
        s3 = replace(s3, credentials="keys", access_key=keys[0], secret_key=keys[1], session_token=token)
    conf_dir = stores.hdfs.conf_dir or environment.get("HADOOP_CONF_DIR") or None
    return replace(stores, s3=s3, hdfs=replace(stores.hdfs, conf_dir=conf_dir))


def carry(function: Callable[..., _Result]) -> Callable[..., _Result]:
    """The same function for another process: there it sets this process's settings first.

    Every function that Spark runs on executors and that touches storage goes through here. Keys that the
    driver has in its environment travel along, as Spark's own do. HADOOP_CONF_DIR of the driver does not:
    executors have their own, unless storage.hdfs.conf_dir names a folder for all.
    """
    stores = current()
    return partial(_run_configured, replace(stores, hdfs=_configured.hdfs), function)


def _run_configured(
    stores: Stores, function: Callable[..., _Result], /, *args: Any, **options: Any
) -> _Result:
    configure(stores)
    return function(*args, **options)


def s3_for(path: str, stores: Stores | None = None) -> S3:
    """The settings for an S3 path: those of the process, or of `stores`; keys and options in the path win
    (s3://KEY:SECRET@BUCKET?endpoint_override=HOST&scheme=http&region=NAME, as Arrow reads it)."""
    s3 = (stores or current()).s3
    if keys := re.match(r"\w+://([^/@:]+):([^/@]+)@", path):
        access_key, secret_key = map(unquote, keys.groups())
        s3 = replace(s3, credentials="keys", access_key=access_key, secret_key=secret_key, session_token=None)
    options = dict(part.partition("=")[::2] for part in split_options(path)[1].lstrip("?").split("&"))
    if host := options.get("endpoint_override"):
        s3 = replace(s3, endpoint=host if "://" in host else f"{options.get('scheme', 'https')}://{host}")
    return replace(s3, region=options["region"]) if options.get("region") else s3


def delta_options(path: str, stores: Stores | None = None) -> dict[str, str]:
    """The `storage_options` of delta-rs for the table at `path`."""
    scheme, stores = split_scheme(path)[0], stores or current()
    if scheme == "hdfs":
        return hdfs_retries(stores)
    if scheme not in S3_SCHEMES:
        return {}
    s3 = s3_for(path, stores)
    options = {
        "timeout": f"{_request_seconds(stores)}s",
        "connect_timeout": f"{CONNECT_SECONDS}s",
        "max_retries": "1000" if stores.patience_seconds else "0",
        "retry_timeout": f"{stores.patience_seconds:.0f}s",
        "backoff_config.max_backoff": "5s",
    }
    if s3.endpoint:
        options["aws_endpoint_url"] = s3.endpoint
        options["aws_allow_http"] = str(s3.endpoint.startswith("http:")).lower()
    if region := _region(s3):
        options["aws_region"] = region
    options["aws_virtual_hosted_style_request"] = str(not s3.is_path_style).lower()
    if s3.credentials == "anonymous":
        options["aws_skip_signature"] = "true"
    for name, value in _keys(s3).items():
        options[f"aws_{name}"] = value
    return options


def hdfs_retries(stores: Stores) -> dict[str, str]:
    """How hdfs-native, and delta-rs on it, try again: after 0.5, 1, 2, 4 and then every 5 s."""
    attempts = 1 + (4 + stores.patience_seconds / 5 if stores.patience_seconds else 0)
    return {
        "dfs.client.failover.max.attempts": f"{attempts:.0f}",
        "dfs.client.failover.sleep.base.millis": "500",
        "dfs.client.failover.sleep.max.millis": "5000",
    }


def spark_conf(stores: Stores) -> dict[str, str]:
    """Spark's settings for its Hadoop clients (spark.hadoop.*), without keys: see `secret_conf`."""
    s3, seconds = stores.s3, stores.patience_seconds
    conf = {
        # Tables are named by s3:// as often as by s3a://; Hadoop knows only the second.
        "fs.s3.impl": "org.apache.hadoop.fs.s3a.S3AFileSystem",
        # Two retries inside the SDK, and Hadoop's own around them, half a second apart and more each time.
        "fs.s3a.attempts.maximum": "3" if seconds else "1",
        "fs.s3a.retry.limit": "7" if seconds else "0",
        "fs.s3a.connection.establish.timeout": f"{CONNECT_SECONDS}s",
        "fs.s3a.connection.timeout": f"{_request_seconds(stores)}s",
        "ipc.client.connect.timeout": f"{CONNECT_SECONDS * 1000}",
        "ipc.client.connect.max.retries.on.timeouts": f"{seconds // CONNECT_SECONDS:.0f}",
        **_hadoop_hdfs_retries(seconds),
    }
    if s3.endpoint:
        conf["fs.s3a.endpoint"] = s3.endpoint
        conf["fs.s3a.connection.ssl.enabled"] = str(not s3.endpoint.startswith("http:")).lower()
    if region := _region(s3):
        conf["fs.s3a.endpoint.region"] = region
    if s3.endpoint or s3.path_style is not None:
        conf["fs.s3a.path.style.access"] = str(s3.is_path_style).lower()
    if s3.credentials == "anonymous":
        conf["fs.s3a.aws.credentials.provider"] = ANONYMOUS
    if s3.credentials == "keys":
        conf["fs.s3a.aws.credentials.provider"] = TEMPORARY if s3.session_token else SIMPLE
    return {f"spark.hadoop.{name}": value for name, value in conf.items()}


def _hadoop_hdfs_retries(seconds: float) -> dict[str, str]:
    """How Hadoop's client of HDFS tries again.

    A name node: n times 3 s inside the connection, and n times the whole question; so for about
    3 n (n + 1) seconds. Without this policy, Hadoop asks a refused name node once, whatever
    ipc.client.connect.max.retries says. A block: before attempt k + 1, a random time between 3 k and 6 k + 3
    seconds, so n attempts take about 2.25 n^2.
    """
    num_calls, num_blocks = round((seconds / 3) ** 0.5), math.ceil((seconds / 2.25) ** 0.5)
    return {
        "dfs.client.retry.policy.enabled": str(num_calls > 0).lower(),
        "dfs.client.retry.policy.spec": f"3000,{max(1, num_calls)}",
        "dfs.client.max.block.acquire.failures": f"{max(3, num_blocks)}",
    }


def secret_conf(stores: Stores) -> dict[str, str]:
    """The keys as Hadoop's settings. They are set on the running session only: Spark's own settings stand on
    the command line of the JVM, where every user of the machine can read them."""
    names = {
        "access_key_id": "access.key",
        "secret_access_key": "secret.key",
        "session_token": "session.token",
    }
    return {f"fs.s3a.{names[name]}": value for name, value in _keys(stores.s3).items()}


def _keys(s3: S3) -> dict[str, str]:
    """The keys by AWS's names; empty if they come from the machine's role."""
    if s3.credentials != "keys":
        return {}
    assert s3.access_key, "checked when the settings were made"
    assert s3.secret_key, "checked when the settings were made"
    keys = {"access_key_id": s3.access_key, "secret_access_key": s3.secret_key}
    return {**keys, "session_token": s3.session_token} if s3.session_token else keys


def _region(s3: S3) -> str | None:
    return s3.region or (DEFAULT_REGION if s3.endpoint else None)


def _request_seconds(stores: Stores) -> int:
    """How long one request may be silent: a first look fails quickly, work waits for slow answers."""
    return 60 if stores.patience_seconds else CONNECT_SECONDS
