"""The brokers: what a topic has now, consumers of it, and what their errors mean.

This module and `consume.py` are the home of confluent-kafka, Python's binding of librdkafka. It brings no
JVM, so a plan asks for offsets before Spark is started, and an executor needs no jars.
"""

import logging
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipelines.corpus.kafka.ranges import LostOffsets, Topic

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError

logger = logging.getLogger(__name__)
LOOK_SECONDS = 15
"""For an answer about a topic: a cluster that takes longer is not there."""
_OWN = {
    "bootstrap.servers": "corpus.kafka.servers names them",
    "isolation.level": "records of aborted transactions are no documents",
    "auto.offset.reset": "offsets that are gone must be an error",
    "enable.auto.commit": "what was read is kept beside the records, not in Kafka",
    "enable.partition.eof": "it tells the end of a range",
}
"""Properties that may not be set, with the reason."""
_PLACE = re.compile(r"(\[[^\]\s]+\]|[^\s,:/@\[\]]+):\d+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Kafka:
    """How the brokers are reached, for all sources of format kafka."""

    servers: str | None = None
    """HOST:PORT of some brokers, joined by commas."""
    properties: dict[str, str | int | bool] = field(default_factory=dict, repr=False)
    """Properties of librdkafka: security.protocol, sasl.mechanism and so on."""
    lost_offsets: LostOffsets = "stop"
    """stop = an error; skip = go on at the oldest offset that is there, and say so."""

    def __post_init__(self) -> None:
        places = (self.servers or "").split(",")
        if self.servers is not None and not all(_PLACE.fullmatch(place.strip()) for place in places):
            raise ValueError("servers must be HOST:PORT,HOST:PORT, without a scheme and without a user")
        if own := sorted(set(self.properties) & set(_OWN)):
            raise ValueError(f"properties must not have {own[0]}: {_OWN[own[0]]}")


def describe_topic(kafka: Kafka, name: str) -> Topic | None:
    """The topic as it is now; None if the cluster has none of this name. Asks again while partitions move.

    Raises ConnectionError if no broker answers in time, PermissionError if they refuse.
    """
    client, deadline = _import_client(), time.monotonic() + LOOK_SECONDS
    kind = client.KafkaError
    moving = (
        *(kind.NOT_LEADER_FOR_PARTITION, kind.LEADER_NOT_AVAILABLE, kind.OFFSET_NOT_AVAILABLE),
        kind.UNKNOWN_TOPIC_OR_PART,  # of a partition that was just made
    )
    seen: list[KafkaError] = []
    admin = _create(client.admin.AdminClient, _configure(kafka, seen))
    while True:
        try:
            return _ask(client, admin, name)
        except client.KafkaException as error:
            failed = error.args[0]
            if failed.code() not in moving or time.monotonic() > deadline:
                admin.poll(0)  # hands over the errors of connections
                raise explain_failure(kafka, failed, seen) from None
        time.sleep(0.3)


def _ask(client: Any, admin: Any, name: str) -> Topic | None:
    asked = admin.describe_topics(client.TopicCollection([name]), request_timeout=LOOK_SECONDS)
    try:
        topic = asked[name].result(LOOK_SECONDS + 5)
    except client.KafkaException as error:
        if error.args[0].code() == client.KafkaError.UNKNOWN_TOPIC_OR_PART:
            return None
        raise
    places = [client.TopicPartition(name, each.id) for each in topic.partitions]
    spec = client.admin.OffsetSpec
    first = admin.list_offsets(dict.fromkeys(places, spec.earliest()), request_timeout=LOOK_SECONDS)
    stop = admin.list_offsets(
        dict.fromkeys(places, spec.latest()),
        isolation_level=client.IsolationLevel.READ_COMMITTED,
        request_timeout=LOOK_SECONDS,
    )
    return Topic(str(topic.topic_id), _collect(first), _collect(stop))


def _collect(found: Mapping[Any, "Future[Any]"]) -> dict[int, int]:
    return {place.partition: future.result(LOOK_SECONDS + 5).offset for place, future in found.items()}


def open_consumer(kafka: Kafka, seen: "list[KafkaError]") -> "Consumer":
    """A consumer that reads what was committed, forgets nothing in Kafka, and says where a partition ends.
    `seen` gets the errors of connections. Memory: 16 MB of records that wait, and one answer."""
    own = {
        "group.id": "distributary",  # the client wants one; no offset is ever committed in it
        "fetch.wait.max.ms": 100,
        "fetch.message.max.bytes": 2**22,  # with the client's 1 MiB a quarter of the records a second
        "queued.max.messages.kbytes": 16 * 2**10,
        **_configure(kafka, seen),
        "isolation.level": "read_committed",
        "auto.offset.reset": "error",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "check.crcs": True,
        "allow.auto.create.topics": False,
    }
    consumer: Consumer = _create(_import_client().Consumer, own)
    return consumer


def _create(kind: Callable[..., Any], properties: Mapping[str, Any]) -> Any:
    """Raises ValueError for properties that the client does not know."""
    try:
        return kind(properties, logger=logger)
    except _import_client().KafkaException as error:
        raise ValueError(f"corpus.kafka.properties: {error.args[0].str()}; correct them") from None


def explain_failure(kafka: Kafka, failed: "KafkaError", seen: "list[KafkaError]") -> OSError:
    """The error of the client as one that says what to do."""
    client = _import_client()
    kind = client.KafkaError
    denied = (
        *(kind._AUTHENTICATION, kind._SSL, kind.SASL_AUTHENTICATION_FAILED),
        *(
            kind.TOPIC_AUTHORIZATION_FAILED,
            kind.CLUSTER_AUTHORIZATION_FAILED,
            kind.GROUP_AUTHORIZATION_FAILED,
        ),
    )
    # A refused connection is tried again and again, so what is raised is only that the time is over.
    worst = next((each for each in (failed, *reversed(seen)) if each.code() in denied), None)
    if worst is not None:
        return PermissionError(
            f"Kafka at {kafka.servers} refuses: {worst.str()}; correct corpus.kafka.properties, or let this "
            "user describe and read the topic, and read the group distributary (or that of group.id)"
        )
    last = f"; {seen[-1].str()}" if seen else ""
    return ConnectionError(
        f"Kafka at {kafka.servers} does not answer: {failed.str()}{last}; start it, or correct "
        "corpus.kafka.servers"
    )


def _configure(kafka: Kafka, seen: "list[KafkaError]") -> dict[str, Any]:
    if not kafka.servers:
        raise ValueError("corpus.kafka.servers is null; set it to HOST:PORT of the brokers")
    return {
        "client.id": "distributary",
        **kafka.properties,
        "bootstrap.servers": kafka.servers,
        "error_cb": seen.append,
    }


def _import_client() -> Any:
    try:
        import confluent_kafka
        import confluent_kafka.admin
    except ImportError as error:
        raise ImportError(
            f"sources of format kafka need the package confluent-kafka ({error}); install it on the driver "
            'and the executors: pip install "distributary[kafka]"; in a pack: make pack ARGS="--extra kafka"'
        ) from None
    return confluent_kafka
