"""Topics of a real broker, landed exactly once: without Spark where few records are enough."""

import multiprocessing
import os
import signal
import threading
import time

import pytest

from jobs import corpus
from jobs.shell.exits import Exit, find_exit
from jobs.shell.settings import load
from pipelines.corpus.kafka import cluster, land
from pipelines.corpus.kafka.claims import Claims
from pipelines.corpus.kafka.cluster import Kafka
from pipelines.corpus.kafka.consume import Reader
from pipelines.corpus.kafka.land import land_topics
from pipelines.corpus.kafka.ranges import Range, plan_claim
from pipelines.corpus.listing import NoFilesError, list_files
from pipelines.pin import pin
from pipelines.storage import Folder
from pipelines.stores import Stores, configure
from pipelines.tables import DOCUMENTS, QUARANTINE
from tests.corpus.increments import SPARK
from tests.corpus.landed import list_texts, make_source
from tests.servers.kafka import PASSWORD, USER, kafka_broker

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    with kafka_broker(tmp_path_factory.mktemp("kafka")) as started:
        yield started


@pytest.fixture
def topic(broker, request):
    """A topic of two partitions, named for the test."""
    name = request.node.name.replace("[", "-").replace("]", "")
    broker.create(name, 2)
    return name


def refuse_spark():
    raise AssertionError("few records need no Spark")


def land_now(source, servers, **knobs):
    """What people are told."""
    notes = []
    land_topics([source], Kafka(servers=servers, **knobs), refuse_spark, notes.append)
    return notes


def values_of(*names):
    return [str(name).encode() for name in names]


def test_each_round_lands_what_is_new_once(broker, topic, tmp_path):
    source = make_source(tmp_path, topic)
    assert land_now(source, broker.servers) == []
    with pytest.raises(NoFilesError, match="nothing was landed there yet"):
        list_files(source)
    broker.send(topic, *values_of(0, 1, 2))
    broker.send(topic, *values_of("a"), partition=1)
    assert land_now(source, broker.servers) == [f"topic {topic}: landing 4 offsets of 2 partitions"]
    first = list_files(source)
    broker.send(topic, *values_of(3), key=b"k", headers=[("h", b"v")])
    broker.add_partitions(topic, 3)
    broker.send(topic, *values_of("new"), partition=2)
    land_now(source, broker.servers)
    assert land_now(source, broker.servers) == []
    zero, one, two = [(0, "0"), (1, "1"), (2, "2"), (3, "3")], [(0, "a")], [(0, "new")]
    assert list_texts(source) == {"0": zero, "1": one, "2": two}
    assert set(first) < set(list_files(source)), "files never change"


def test_aborted_and_open_transactions_are_no_records(broker, topic, tmp_path):
    source, producer = make_source(tmp_path, topic), broker.open_producer(topic)
    for value, commits in ((b"kept", True), (b"aborted", False), (b"kept too", True)):
        producer.begin_transaction()
        producer.produce(topic, value, partition=0)
        producer.flush()
        (producer.commit_transaction if commits else producer.abort_transaction)()
    producer.begin_transaction()
    producer.produce(topic, b"open", partition=0)
    producer.flush()
    broker.send(topic, b"behind the open one")
    wait_for_end(broker, topic, 6)
    land_now(source, broker.servers)
    assert list_texts(source) == {"0": [(0, "kept"), (4, "kept too")]}
    producer.commit_transaction()
    wait_for_end(broker, topic, 9)
    land_now(source, broker.servers)
    assert list_texts(source)["0"][2:] == [(6, "open"), (7, "behind the open one")]


def wait_for_end(broker, topic, stop):
    """Marks of transactions arrive a moment after the commit."""
    deadline = time.monotonic() + 30
    while cluster.describe_topic(Kafka(servers=broker.servers), topic).stop[0] != stop:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_compacted_topic_has_gaps(broker, tmp_path):
    settings = {"cleanup_policy": "compact", "segment_ms": "100", "max_compaction_lag_ms": "100"}
    broker.create("compacted", 1, min_cleanable_dirty_ratio="0.01", **settings)
    source, deadline = make_source(tmp_path, "compacted"), time.monotonic() + 60
    for number in range(9):
        broker.send("compacted", b"%d" % number, key=b"%d" % (number % 2))
    last = 9
    while _count(broker, "compacted", last) == last:
        assert time.monotonic() < deadline
        time.sleep(0.3)
        broker.send("compacted", b"later", key=b"c")  # a segment is closed by the next record
        last += 1
    land_now(source, broker.servers)
    found = [offset for offset, _ in list_texts(source)["0"]]
    assert found == sorted(set(found))
    assert {7, 8} <= set(found)
    assert found[-1] == last - 1
    assert len(found) < last


def _count(broker, topic, stop):
    reader = Reader(Kafka(servers=broker.servers), topic)
    try:
        return sum(1 for _ in reader.read(Range(0, 0, stop)))
    finally:
        reader.close()


def test_records_that_retention_deleted_stop_the_stage(broker, topic, tmp_path):
    source = make_source(tmp_path, topic)
    broker.send(topic, *values_of(*range(10)))
    broker.send(topic, b"other partition", partition=1)
    land_now(source, broker.servers)
    broker.send(topic, *values_of(*range(10, 20)))
    broker.drop_before(topic, 15)
    expected = rf"source 's': topic {topic}: Kafka deleted .*: 10 to 14 of partition 0.*lost_offsets=skip"
    with pytest.raises(ValueError, match=expected) as refused:
        land_now(source, broker.servers)
    assert find_exit(refused.value, configuring=False) == Exit.INPUT
    notes = land_now(source, broker.servers, lost_offsets="skip")
    assert f"topic {topic}: offsets 10 to 14 of partition 0 were deleted by Kafka" in notes[0]
    assert land_now(source, broker.servers) == [], "what was skipped is not lost again"
    assert [offset for offset, _ in list_texts(source)["0"]] == [*range(10), *range(15, 20)]


def test_records_deleted_after_they_were_claimed_are_noticed(broker, topic, tmp_path):
    """The driver is killed between claim and files; then retention comes."""
    source = make_source(tmp_path, topic)
    broker.send(topic, *values_of(*range(10)))
    claim_only(source, broker)
    broker.drop_before(topic, 4)
    with pytest.raises(ValueError, match=r"0 to 3 of partition 0.*lost_offsets=skip"):
        land_now(source, broker.servers)
    notes = land_now(source, broker.servers, lost_offsets="skip")
    assert "offsets 0 to 3 of partition 0" in notes[1]
    assert [offset for offset, _ in list_texts(source)["0"]] == [*range(4, 10)]


def claim_only(source, broker):
    """Leave what a driver leaves that is killed before its first file."""
    topic = source.request.options.topic
    claims = Claims(Folder(source.path) / topic)
    now = cluster.describe_topic(Kafka(servers=broker.servers), topic)
    assert claims.create(plan_claim(claims.read_newest(), now, "stop"))


def test_a_topic_that_was_created_again_is_refused(broker, topic, tmp_path):
    source = make_source(tmp_path, topic)
    broker.send(topic, *values_of(0, 1, 2))
    land_now(source, broker.servers)
    broker.delete(topic)
    while cluster.describe_topic(Kafka(servers=broker.servers), topic):
        time.sleep(0.05)
    with pytest.raises(NoFilesError, match=rf"source 's': no topic '{topic}' at .*create it"):
        land_now(source, broker.servers)
    broker.create(topic, 2)
    broker.send(topic, *values_of(*range(9)))
    with pytest.raises(ValueError, match=r"deleted and created again.*another path.*options\.land: false"):
        land_now(source, broker.servers)
    kept = make_source(tmp_path, topic, {"land": False})
    assert land_now(kept, broker.servers) == []
    assert list_texts(kept) == {"0": [(0, "0"), (1, "1"), (2, "2")]}
    other = make_source(tmp_path / "other", topic)
    land_now(other, broker.servers)
    assert len(list_texts(other)["0"]) == 9


def test_a_driver_that_looked_before_the_first_claim_goes_on(broker, topic, tmp_path, monkeypatch):
    source, read = make_source(tmp_path, topic), Claims.read_newest
    broker.send(topic, b"1")
    land_now(source, broker.servers)
    early = iter([None])  # what it saw before another driver claimed and landed
    monkeypatch.setattr(Claims, "read_newest", lambda self: next(early, read(self)))
    assert land_now(source, broker.servers) == []
    assert list_texts(source) == {"0": [(0, "1")]}


def test_records_without_their_claims_are_refused(broker, topic, tmp_path):
    source = make_source(tmp_path, topic)
    broker.send(topic, b"1")
    land_now(source, broker.servers)
    (tmp_path / topic / "_claims").rename(tmp_path / "away")
    with pytest.raises(ValueError, match=r"the list of their offsets is missing.*bring it back"):
        land_now(source, broker.servers)


def test_a_driver_killed_while_it_lands_loses_and_doubles_nothing(broker, tmp_path):
    broker.create("killed", 8)
    for partition in range(8):
        broker.send("killed", *(os.urandom(600).hex().encode() for _ in range(4000)), partition=partition)
    source, spawn = make_source(tmp_path, "killed"), multiprocessing.get_context("spawn")
    driver = spawn.Process(target=land_now, args=(source, broker.servers))
    driver.start()
    while not list((tmp_path / "killed").glob("*/*.parquet")):
        assert driver.is_alive()
        time.sleep(0.001)
    os.kill(driver.pid, signal.SIGKILL)
    driver.join()
    done = list_files(source)
    assert 0 < len(done) < 8, "it was killed between files"
    broker.send("killed", b"later")
    land_now(source, broker.servers)
    found = {partition: [offset for offset, _ in texts] for partition, texts in list_texts(source).items()}
    assert found == {str(n): [*range(4001 if n == 0 else 4000)] for n in range(8)}
    assert set(done) < set(list_files(source))


def test_drivers_at_once_land_every_record_once(broker, topic, tmp_path):
    source, faults, stop = make_source(tmp_path, topic), [], threading.Event()

    def land_again():
        try:
            while not stop.is_set():
                land_now(source, broker.servers)
        except Exception as error:
            faults.append(error)

    drivers = [threading.Thread(target=land_again) for _ in range(3)]
    for driver in drivers:
        driver.start()
    num_rounds, deadline = 0, time.monotonic() + 60
    while len(list((tmp_path / topic).glob("*/*.parquet"))) < 8 and time.monotonic() < deadline:
        for partition in range(2):
            broker.send(topic, *values_of(*range(20)), partition=partition)
        num_rounds += 1
    stop.set()
    for driver in drivers:
        driver.join()
    land_now(source, broker.servers)
    assert faults == []
    offsets = {partition: [offset for offset, _ in texts] for partition, texts in list_texts(source).items()}
    assert offsets == {partition: [*range(20 * num_rounds)] for partition in ("0", "1")}
    assert len(list_files(source)) >= 8


def test_a_password_is_asked_for_and_never_shown(broker, topic, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "LOOK_SECONDS", 3)
    source = make_source(tmp_path, topic)
    broker.send(topic, b"1")
    login = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.username": USER}
    with pytest.raises(PermissionError, match=r"refuses: .*corpus\.kafka\.properties") as refused:
        land_now(source, broker.secured_servers, properties={**login, "sasl.password": "wrong-one"})
    assert find_exit(refused.value, configuring=False) == Exit.CONFIGURATION
    assert "wrong-one" not in str(refused.value)
    land_now(source, broker.secured_servers, properties={**login, "sasl.password": PASSWORD})
    assert list_texts(source) == {"0": [(0, "1")]}
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert PASSWORD.encode() not in written


def test_brokers_that_do_not_answer_are_tried_again_later(broker, topic, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "LOOK_SECONDS", 2)
    source = make_source(tmp_path, topic)
    broker.send(topic, *values_of(0, 1))
    claim_only(source, broker)
    configure(Stores(patience_seconds=2))
    broker.pause()
    try:
        with pytest.raises(
            ConnectionError, match=r"Kafka at .* does not answer.*corpus\.kafka\.servers"
        ) as down:
            land_now(source, broker.servers)
        with pytest.raises(ConnectionError, match="partition 0 gave nothing for 2 s at offset 0 of 1"):
            _count(broker, topic, 2)
    finally:
        broker.resume()
        configure(Stores())
    assert find_exit(down.value, configuring=False) == Exit.RETRY
    land_now(source, broker.servers)
    assert list_texts(source) == {"0": [(0, "0"), (1, "1")]}


def make_config(folder, broker, topic, lake, *overrides):
    source = (
        f"{{name: chats, path: {folder}/{lake}/landed, format: kafka, options: {{topic: {topic}}}, "
        "fields: {text: body}}"
    )
    given = [
        f"root={folder}/{lake}",
        f"corpus.sources=[{source}]",
        f"corpus.kafka.servers='{broker.servers}'",
    ]
    loose = "corpus.max_quarantined_fraction=1"
    return load(overrides=[*given, loose, SPARK, *overrides]).section("corpus", corpus.Config)


def test_increments_from_a_topic_equal_one_run(spark, broker, topic, tmp_path, monkeypatch):
    """The one run reads with tasks of Spark, and lands other files."""
    config = make_config(tmp_path, broker, topic, "grown")
    rounds = [[b'{"body": "one"}', None, b'{"body": "two"}'], [b"\xff", b'{"body": "one"}', b'{"body": 3}']]
    for number, values in enumerate(rounds):
        for partition in range(2):
            broker.send(topic, *values, partition=partition)
        outcome = corpus.main(config)
        assert ("new files" in outcome.why) == (number == 1), outcome.why
    assert not corpus.main(config).ran
    monkeypatch.setattr(land, "DRIVER_OFFSETS", 1)
    whole = make_config(tmp_path, broker, topic, "whole")
    corpus.main(whole)
    for table, place in ((DOCUMENTS, "documents"), (QUARANTINE, "quarantine")):
        grown, once = pin(getattr(config, place)), pin(getattr(whole, place))
        assert (grown.digest, grown.num_rows) == (once.digest, once.num_rows)
        assert grown.num_rows == 6
        assert table.digest(table.read(spark, getattr(whole, place)))[0] == once.digest
    broken = QUARANTINE.read(spark, whole.quarantine).orderBy("file", "offset").collect()
    assert [(row.file, row.offset) for row in broken] == [
        (f"{topic}/{p}", n) for p in (0, 1) for n in (1, 3, 5)
    ]
    documents = DOCUMENTS.read(spark, whole.documents).where("drop_reason IS NULL").collect()
    assert sorted(row.text for row in documents) == ["one", "two"]
    assert all(row.metadata["timestamp"] for row in documents)


def test_a_dry_run_reads_nothing_from_kafka(broker, topic, tmp_path):
    broker.send(topic, b'{"body": "one"}')
    with pytest.raises(NoFilesError):
        corpus.plan(make_config(tmp_path, broker, topic, "dry"))
    assert not (tmp_path / "dry").exists()
