import pytest

from pipelines.finetune.launch.world import assign


def test_ranks_of_one_host_are_neighbours_and_local_ranks_count_up():
    places = assign(["b", "a", "b", "a", "b"], ["0", "0", "1", "1", "2"])
    assert [place.rank for place in places] == [0, 3, 1, 4, 2]
    assert [place.local_rank for place in places] == [0, 0, 1, 1, 2]
    assert [place.local_size for place in places] == [3, 2, 3, 2, 3]
    assert [(place.cross_rank, place.cross_size) for place in places] == [
        (0, 2),
        (1, 2),
        (0, 2),
        (1, 2),
        (0, 1),
    ]
    assert [place.gpu for place in places] == ["0", "0", "1", "1", "2"]


@pytest.mark.parametrize("hosts", [["a"], ["a", "a"], ["a", "b", "c"], ["a", "b", "a", "c", "c"]])
def test_horovod_gives_the_same_assignment(hosts):
    from horovod.runner.common.util.hosts import HostInfo, get_host_assignments

    slots = get_host_assignments(
        [HostInfo(host, hosts.count(host)) for host in dict.fromkeys(hosts)], len(hosts)
    )
    ours = sorted(assign(hosts, [None] * len(hosts)), key=lambda place: place.rank)
    assert [(p.host, p.rank, p.local_rank, p.local_size, p.cross_rank, p.cross_size) for p in ours] == [
        (s.hostname, s.rank, s.local_rank, s.local_size, s.cross_rank, s.cross_size) for s in slots
    ]


@pytest.mark.parametrize(
    ("hosts", "gpus", "num_gpus", "nccl", "expected"),
    [
        (["a", "a"], ["3", "1"], 4, True, ["cuda:3", "cuda:1"]),  # Spark's word
        (["a", "a"], ["3", "1"], 4, False, ["cuda:3", "cuda:1"]),  # stands; the strategy says what is missing
        (["a", "a"], [None, None], 2, True, ["cuda:0", "cuda:1"]),  # one machine
        (["a", "a"], [None, None], 1, True, ["cpu", "cpu"]),  # two ranks cannot share a GPU
        (["a", "a"], [None, None], 2, False, ["cpu", "cpu"]),
        (["a", "b"], [None, None], 2, True, ["cpu", "cpu"]),  # a cluster's GPUs are Spark's to give
        (["a"], [None], 1, True, ["cuda:0"]),
        (["a"], [None], 0, True, ["cpu"]),
    ],
)
def test_a_rank_takes_sparks_gpu_or_its_own_on_one_machine_or_the_cpu(hosts, gpus, num_gpus, nccl, expected):
    assert [place.device(num_gpus, nccl=nccl) for place in assign(hosts, gpus)] == expected
