import pytest

from pipelines.finetune.place import assign


def test_ranks_of_one_host_are_neighbours_and_local_ranks_count_up():
    places = assign(["b", "a", "b", "a", "b"], ["0", "0", "1", "1", "2"])
    assert [place.rank for place in places] == [0, 3, 1, 4, 2]
    assert [place.local_rank for place in places] == [0, 0, 1, 1, 2]
    assert [place.local_size for place in places] == [3, 2, 3, 2, 3]
    assert [(place.cross_rank, place.cross_size) for place in places] == [(0, 2), (1, 2), (0, 2), (1, 2), (0, 1)]
    assert [place.gpu for place in places] == ["0", "0", "1", "1", "2"]


@pytest.mark.parametrize("hosts", [["a"], ["a", "a"], ["a", "b", "c"], ["a", "b", "a", "c", "c"]])
def test_horovod_gives_the_same_assignment(hosts):
    from horovod.runner.common.util.hosts import HostInfo, get_host_assignments

    slots = get_host_assignments([HostInfo(host, hosts.count(host)) for host in dict.fromkeys(hosts)], len(hosts))
    ours = sorted(assign(hosts, [None] * len(hosts)), key=lambda place: place.rank)
    assert [(p.host, p.rank, p.local_rank, p.local_size, p.cross_rank, p.cross_size) for p in ours] == [
        (s.hostname, s.rank, s.local_rank, s.local_size, s.cross_rank, s.cross_size) for s in slots]
