"""Whole objects, through the package obstore: put and delete in S3, conditional put in S3, GCS and Azure.

Arrow reads object stores well, but cannot create conditionally. In S3 it also writes marker objects for
folders, and ends a file after 10,000 parts of 10 MiB.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import lru_cache
from typing import Any

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import S3Store, from_url

from pipelines.paths import split_options, split_scheme, without_credentials
from pipelines.stores import CONNECT_SECONDS, S3_SCHEMES, Stores, current, delta_options

PART_BYTES = 16 * 2**20
"""Of a large object; several parts are sent at once."""
PARTS_AT_ONCE = 4
"""Of an object that is written in chunks."""
MAX_PARTS = 9_000
"""S3 allows 10,000; longer objects get larger parts."""
_RETRY_SECONDS = 2.0


class ObjectStore:
    """The objects below one folder of a bucket."""

    def __init__(self, path: str, root: str, stores: Stores | None = None) -> None:
        """`root` is BUCKET/PATH as Arrow names it; `path` is the URI that leads there."""
        self._path, self._stores = path, stores
        self._bucket, _, self._prefix = root.partition("/")
        self._shown = without_credentials(split_options(path)[0]).rstrip("/")

    @property
    def _store(self) -> Any:
        scheme, rest = split_scheme(self._path)
        stores = self._stores or current()
        if scheme in S3_SCHEMES:
            options = json.dumps(_s3_options(self._path, stores), sort_keys=True)
            return _open_s3(self._bucket, options, stores.patience_seconds, os.getpid())
        place = rest[2:].partition("/")[0].removeprefix("anonymous@")
        return _open_other(f"{scheme}://{place}", stores.patience_seconds, os.getpid())

    def look(self) -> None:
        """One request. Raises OSError if the store does not answer, refuses the keys or lacks the bucket."""
        with self._plain_errors(""):
            next(iter(obstore.list(self._store, prefix=self._prefix, chunk_size=1)), None)

    def write(self, name: str, content: bytes | memoryview) -> None:
        """As Folder.write. A large object is sent in parts, several at once."""
        part_bytes = max(PART_BYTES, -(-len(content) // MAX_PARTS))
        with self._plain_errors(name):
            obstore.put(self._store, self._key(name), content, chunk_size=part_bytes)

    def write_chunks(self, name: str, chunks: Iterable[bytes | memoryview], num_bytes: int) -> None:
        """As Folder.write_chunks: at most PARTS_AT_ONCE parts are in memory. If `chunks` raises, no object
        shows; the store keeps the parts that were sent until its rule for incomplete uploads deletes them."""
        if num_bytes <= PART_BYTES:  # one request, which may be repeated: a store may be away for a while
            self.write(name, b"".join(chunks))
            return
        part_bytes = max(PART_BYTES, -(-num_bytes // MAX_PARTS))
        with self._plain_errors(name):
            obstore.put(
                self._store,
                self._key(name),
                iter(chunks),
                chunk_size=part_bytes,
                max_concurrency=PARTS_AT_ONCE,
            )

    def delete(self, name: str) -> None:
        """As Folder.delete: the object, and all objects below it."""
        key = self._key(name)
        with self._plain_errors(name):
            # A page at a time: a folder may hold millions.
            for page in obstore.list(self._store, prefix=key, chunk_size=1000):
                obstore.delete(self._store, [item["path"] for item in page])
            with suppress(FileNotFoundError):
                obstore.delete(self._store, key)

    def create(self, name: str, content: bytes | memoryview) -> bool:
        """As Folder.create."""
        with self._plain_errors(name):
            return self._create(name, content)

    def _create(self, name: str, content: bytes | memoryview) -> bool:
        """A put whose answer was lost may have arrived. The client repeats some of these itself, we the
        others, so an object that is found is compared with ours."""
        deadline = time.monotonic() + (self._stores or current()).patience_seconds
        while True:
            try:
                # In one request: parts cannot be put on a condition.
                obstore.put(self._store, self._key(name), content, mode="create", use_multipart=False)
                return True
            except (AlreadyExistsError, PreconditionError):
                return self._holds(name, content)
            except (PermissionDeniedError, UnauthenticatedError):
                raise
            except BaseError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_RETRY_SECONDS)

    def _holds(self, name: str, content: bytes | memoryview) -> bool:
        try:
            return bytes(obstore.get(self._store, self._key(name)).bytes()) == bytes(content)
        except FileNotFoundError:  # deleted meanwhile
            return False

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}".strip("/")

    @contextmanager
    def _plain_errors(self, name: str) -> Iterator[None]:
        """The client's errors as OSError: one line, with the object."""
        try:
            yield
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{self._shown}/{name}: {_one_line(error)}") from None
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise PermissionError(f"{self._shown}/{name}: {_one_line(error)}") from None
        except BaseError as error:
            raise OSError(f"{self._shown}/{name}: {_one_line(error)}") from None


def _s3_options(path: str, stores: Stores) -> dict[str, str]:
    """The settings of delta-rs, which has the same client inside, without those of the connection."""
    retries = ("timeout", "connect_timeout", "max_retries", "retry_timeout", "backoff_config.max_backoff")
    return {name: value for name, value in delta_options(path, stores).items() if name not in retries}


@lru_cache(maxsize=16)
def _open_s3(bucket: str, options: str, patience_seconds: float, _process: int) -> Any:
    # One client per process: its threads do not survive a fork.
    config = json.loads(options)
    connection = _connection(patience_seconds)
    connection["allow_http"] = config.pop("aws_allow_http", "") == "true"
    return S3Store(bucket, config=config, client_options=connection, retry_config=_retries(patience_seconds))


@lru_cache(maxsize=16)
def _open_other(url: str, patience_seconds: float, _process: int) -> Any:
    connection, retries = _connection(patience_seconds), _retries(patience_seconds)
    return from_url(url, client_options=connection, retry_config=retries)


def _connection(patience_seconds: float) -> Any:
    # The time of a whole request, in which a part of PART_BYTES or more must arrive.
    seconds = 300 if patience_seconds else CONNECT_SECONDS
    return {"timeout": timedelta(seconds=seconds), "connect_timeout": timedelta(seconds=CONNECT_SECONDS)}


def _retries(patience_seconds: float) -> Any:
    return {
        "max_retries": 1000 if patience_seconds else 0,
        "retry_timeout": timedelta(seconds=patience_seconds),
        "backoff": {"max_backoff": timedelta(seconds=5)},
    }


def _one_line(error: BaseException) -> str:
    # The client adds its own data structures.
    return " ".join(str(error).partition("Debug source")[0].split())[:500]
