"""Which offsets of a topic are read, and the files that keep them: numbers and folders, no broker."""

import random
from itertools import pairwise

import pytest

from pipelines.corpus.kafka import files, land
from pipelines.corpus.kafka.claims import Claims
from pipelines.corpus.kafka.cluster import Kafka, describe_topic
from pipelines.corpus.kafka.files import create_files, find_rest, list_firsts, read_stop
from pipelines.corpus.kafka.ranges import Claim, Range, Topic, decode_claim, plan_claim
from pipelines.storage import Folder
from tests.corpus.landed import list_texts, make_message, make_source


def make_topic(stop, first=None, name="one"):
    return Topic(name, first or dict.fromkeys(stop, 0), stop)


def make_claim(*ranges, name="one", **knobs):
    return Claim(number=7, topic_id=name, ranges=tuple(Range(*each) for each in ranges), **knobs)


def test_first_claim_starts_at_the_oldest_offsets():
    claim = plan_claim(None, make_topic({0: 9, 1: 4}, {0: 5, 1: 4}), "stop")
    assert (claim.number, claim.ranges, claim.skipped) == (1, (Range(0, 5, 9), Range(1, 4, 4)), ())


def test_an_empty_topic_is_claimed_once():
    first = plan_claim(None, make_topic({0: 0}), "stop")
    assert first.num_offsets == 0
    assert plan_claim(first, make_topic({0: 0}), "stop") is None


def test_claims_follow_each_other_without_gap():
    claim = plan_claim(make_claim((0, 2, 5), (1, 0, 0)), make_topic({0: 9, 1: 3}), "stop")
    assert (claim.number, claim.ranges) == (8, (Range(0, 5, 9), Range(1, 0, 3)))
    assert plan_claim(claim, make_topic({0: 9, 1: 3}), "stop") is None


def test_a_new_partition_starts_at_zero():
    claim = plan_claim(make_claim((0, 0, 5)), make_topic({0: 5, 1: 3}), "stop")
    assert claim.ranges == (Range(0, 5, 5), Range(1, 0, 3))
    with pytest.raises(ValueError, match="0 to 1 of partition 1"):
        plan_claim(make_claim((0, 0, 5)), make_topic({0: 5, 1: 3}, {0: 0, 1: 2}), "stop")


@pytest.mark.parametrize("oldest", [6, 9])
def test_offsets_that_kafka_deleted_stop_or_are_skipped(oldest):
    last, now = make_claim((0, 0, 5), (1, 0, 5)), make_topic({0: 9, 1: 9}, {0: oldest, 1: 5})
    expected = rf"5 to {oldest - 1} of partition 0.*corpus\.kafka\.lost_offsets=skip.*retention\.ms"
    with pytest.raises(ValueError, match=expected):
        plan_claim(last, now, "stop")
    claim = plan_claim(last, now, "skip")
    assert claim.skipped == (Range(0, 5, oldest),)
    assert claim.ranges == (Range(0, oldest, 9), Range(1, 5, 9))
    assert plan_claim(claim, now, "stop") is None


def test_offset_just_at_the_oldest_is_not_lost():
    claim = plan_claim(make_claim((0, 0, 5)), make_topic({0: 9}, {0: 5}), "stop")
    assert (claim.ranges, claim.skipped) == ((Range(0, 5, 9),), ())


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (make_topic({0: 9}, name="two"), r"its id is two and was one.*another name.*options\.land: false"),
        (make_topic({0: 4}), r"partition 0 ends at offset 4, but offsets up to 4 were read.*another path"),
        (make_topic({1: 9}), "partition 0 is gone.*another path"),
    ],
)
def test_a_topic_that_does_not_go_on_is_refused(now, message):
    with pytest.raises(ValueError, match=message):
        plan_claim(make_claim((0, 0, 5)), now, "skip")


def test_tasks_share_the_offsets_of_a_claim():
    claim = make_claim((0, 3, 10), (1, 5, 5), (2, 0, 3), range_offsets=3)
    expected = [(0, 3, 6), (0, 6, 9), (0, 9, 10), (2, 0, 3)]
    assert list(claim.cut()) == expected
    assert list(decode_claim(claim.encode()).cut()) == expected


def test_one_driver_makes_the_claim_of_a_number(tmp_path):
    one, two = (Claims(Folder(str(tmp_path))) for _ in range(2))
    assert one.read_newest() is None
    assert one.create(make_claim((0, 0, 5)))
    assert not two.create(make_claim((0, 0, 9)))
    newest = two.read_newest()
    assert newest == make_claim((0, 0, 5))
    assert not two.is_done(newest)
    one.finish(newest, [Range(0, 1, 2)])
    two.finish(newest, [])
    assert two.is_done(newest)


def test_a_damaged_claim_is_named(tmp_path):
    claims = Claims(Folder(str(tmp_path)))
    claims.create(make_claim((0, 0, 5)))
    (tmp_path / "_claims" / "000000000007.json").write_text("{}")
    with pytest.raises(ValueError, match=r"000000000007\.json is no list of offsets.*bring back"):
        claims.read_newest()


def test_files_cover_each_offset_once_whoever_writes_them(tmp_path, monkeypatch):
    """Writers die at any file, and compaction changes what the next one reads, so they end files at different
    offsets."""
    monkeypatch.setattr(files, "GROUP_ROWS", 3)  # files are ended between row groups
    draw, source, cuts = random.Random(4), make_source(tmp_path), 0
    for topic in range(15):
        folder, part = Folder(f"{tmp_path}/t{topic}"), Range(0, 10, 10 + draw.randrange(1, 60))
        there = set(range(part.first, part.stop))
        for _ in range(4):
            there = {offset for offset in there if draw.random() < 0.9}
            _write_until_killed(folder, part, there, draw)
        create_files(folder, part, lambda rest, there=there: _list_messages(rest, there), file_bytes=1)
        names = (folder / "0").names()
        firsts = [int(name.partition(".")[0]) for name in names]
        assert [*firsts[1:], part.stop] == [read_stop(folder, 0, first) for first in firsts]
        cuts += len(firsts)
        offsets = [offset for offset, _ in list_texts(make_source(tmp_path, topic=f"t{topic}")).get("0", ())]
        assert all(one < two for one, two in pairwise(offsets))
        assert set(offsets) >= there
    assert cuts > 30, "ranges were cut"
    assert source.request.options.land


def _write_until_killed(folder, part, there, draw):
    """As a driver that lands what is missing, until it is killed after some messages."""
    left = draw.randrange(60)

    def read(rest):
        nonlocal left
        for message in _list_messages(rest, there):
            left -= 1
            if left < 0:
                raise InterruptedError
            yield message

    try:
        rest = find_rest(folder, part, list_firsts(folder, 0))
        create_files(folder, rest, read, file_bytes=draw.choice([1, 2_000, 10**6]))
    except InterruptedError:
        pass


def _list_messages(part, there):
    return (make_message(offset) for offset in range(part.first, part.stop) if offset in there)


def test_the_slower_writer_goes_on_behind_the_file_that_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "GROUP_ROWS", 2)
    folder, part, asked = Folder(f"{tmp_path}/chats"), Range(3, 0, 6), []

    def read(rest):
        asked.append(rest.first)
        if len(asked) == 1:  # the other writer is faster, and ends its file after two records
            create_files(folder, Range(3, 0, 2), lambda each: _list_messages(each, {0, 1}))
        return _list_messages(rest, set(range(6)))

    assert create_files(folder, part, read) == 4
    assert asked == [0, 2]
    assert [offset for offset, _ in list_texts(make_source(tmp_path))["3"]] == [0, 1, 2, 3, 4, 5]


def test_a_range_without_records_has_a_file(tmp_path):
    folder = Folder(str(tmp_path))
    assert create_files(folder, Range(0, 5, 9), lambda rest: iter(())) == 0
    assert (folder / "0").names() == ["00000000000000000005.parquet"]
    assert find_rest(folder, Range(0, 0, 12), list_firsts(folder, 0)) == Range(0, 9, 12)


def test_a_file_without_its_last_offset_is_named(tmp_path):
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / f"{5:020}.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"00005\.parquet has no record of its last offset.*bring back"):
        read_stop(Folder(str(tmp_path)), 0, 5)


@pytest.mark.parametrize("servers", ["kafka", "http://a:1", "user:word@a:1", "a:1,b"])
def test_servers_are_hosts_with_ports(servers):
    with pytest.raises(ValueError, match="HOST:PORT,HOST:PORT, without a scheme"):
        Kafka(servers=servers)
    assert Kafka(servers="a.b:9092, [::1]:9").servers


def test_properties_that_would_lose_records_are_refused():
    with pytest.raises(ValueError, match=r"must not have auto\.offset\.reset: offsets that are gone"):
        Kafka(servers="a:1", properties={"auto.offset.reset": "latest"})
    shown = repr(Kafka(servers="a:1", properties={"sasl.password": "hush hush"}))
    assert "hush" not in shown


@pytest.mark.parametrize("properties", [{"sasl.pasword": "x"}, {"security.protocol": "TLS"}])
def test_wrong_properties_are_named(properties):
    expected = rf"corpus\.kafka\.properties: .*{next(iter(properties))}.*correct them"
    with pytest.raises(ValueError, match=expected):
        describe_topic(Kafka(servers="127.0.0.1:1", properties=properties), "chats")


def test_missing_client_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "confluent_kafka", None)
    with pytest.raises(ImportError, match=r'confluent-kafka.*pip install "distributary\[kafka\]"'):
        describe_topic(Kafka(servers="a:1"), "chats")


def test_files_that_the_driver_does_not_see_leave_the_claim_open(tmp_path):
    """Each executor wrote to a disk of its own."""
    claim, folder = make_claim((0, 0, 9), (1, 4, 4)), Folder(str(tmp_path))
    with pytest.raises(ValueError, match=r"/0/0{20}\.parquet was written by a task and is not there"):
        land.require_files(claim, folder)
    create_files(folder, Range(0, 0, 9), lambda part: iter([make_message(part.first)]))
    land.require_files(claim, folder)
