"""A real Kafka broker (KRaft, one node), with a plain listener and one that asks for a password."""

import base64
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import pyspark
from confluent_kafka import KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from pipelines.machine import find_java
from tests.processes import SHORT_JVM
from tests.servers.daemon import Daemon, free_port
from tests.servers.jars import require_jars

USER, PASSWORD = "ann", "a-password-of-tests"
_LOGGING = """rootLogger.level=warn
rootLogger.appenderRef.console.ref=console
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d %p %c{1} %m%n
"""
_LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule"


class Broker(Daemon):
    """Keeps its records and ports over stop, kill and start."""

    def __init__(self, folder: Path) -> None:
        plain, secured, control = (f"127.0.0.1:{free_port()}" for _ in range(3))
        self.servers, self.secured_servers = plain, secured
        self._folder, self._settings = folder, folder / "server.properties"
        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "listeners": f"PLAINTEXT://{plain},SASL_PLAINTEXT://{secured},CONTROLLER://{control}",
            "advertised.listeners": f"PLAINTEXT://{plain},SASL_PLAINTEXT://{secured}",
            "listener.security.protocol.map": (
                "PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT"
            ),
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.voters": f"1@{control}",
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl_plaintext.plain.sasl.jaas.config": (
                f'{_LOGIN} required user_{USER}="{PASSWORD}";'
            ),
            "log.dirs": str(folder / "records"),
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "1",
            "log.initial.task.delay.ms": "100",
            "log.retention.check.interval.ms": "200",
            "log.cleaner.backoff.ms": "200",
            "log.cleaner.dedupe.buffer.size": "2000000",
        }
        self._settings.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        (folder / "log4j2.properties").write_text(_LOGGING)
        super().__init__(
            "the Kafka broker",
            [*self._java(), "kafka.Kafka", str(self._settings)],
            log=folder / "kafka.log",
            answers=self._answers_clients,
        )

    def _java(self) -> list[str]:
        # Scala, Jackson and log4j are those of Spark.
        jars = [*require_jars("kafka"), Path(pyspark.__file__).parent / "jars" / "*"]
        options = ["-Xmx256m", *SHORT_JVM.split()]
        logging = f"-Dlog4j2.configurationFile={self._folder}/log4j2.properties"
        return [find_java().path, *options, logging, "-cp", ":".join(map(str, jars))]

    def format(self) -> None:
        """Give the folder of records its id; once."""
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        command = ["kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self._settings)]
        subprocess.run([*self._java(), *command], check=True, capture_output=True, timeout=120)

    def _answers_clients(self) -> bool:
        try:
            return bool(self.admin.list_topics(timeout=2).brokers)
        except KafkaException:
            return False

    @cached_property  # a client that is freed takes its open requests with it
    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.servers, "log_level": 0})

    def create(self, topic: str, num_partitions: int = 1, **config: str) -> None:
        """A topic; '_' in the names of its settings stands for '.'."""
        settings = {name.replace("_", "."): value for name, value in config.items()}
        made = self.admin.create_topics([NewTopic(topic, num_partitions, 1, config=settings)])
        made[topic].result()

    def add_partitions(self, topic: str, total: int) -> None:
        self.admin.create_partitions([NewPartitions(topic, total)])[topic].result()

    def delete(self, topic: str) -> None:
        self.admin.delete_topics([topic])[topic].result()

    def send(self, topic: str, *values: bytes | None, partition: int = 0, **message) -> None:
        """Records, acknowledged by the broker."""
        producer = Producer({"bootstrap.servers": self.servers, "linger.ms": 5})
        for value in values:
            producer.produce(topic, value, partition=partition, **message)
            producer.poll(0)
        assert not producer.flush(60)

    def open_producer(self, name: str) -> Producer:
        """A producer of transactions."""
        producer = Producer({"bootstrap.servers": self.servers, "transactional.id": name, "log_level": 0})
        producer.init_transactions(60)
        return producer

    def drop_before(self, topic: str, offset: int, partition: int = 0) -> None:
        """Move the oldest offset, as retention does."""
        place = TopicPartition(topic, partition, offset)
        self.admin.delete_records([place])[place].result()


@contextmanager
def kafka_broker(folder: Path) -> Iterator[Broker]:
    """A broker that runs while the context lasts."""
    broker = Broker(folder)
    try:
        broker.format()
        broker.start()
        yield broker
    finally:
        broker.kill()
