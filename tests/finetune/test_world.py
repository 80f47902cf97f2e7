import pytest

from pipelines.finetune.launch.world import assign_ranks


def test_ranks_of_one_host_are_neighbours():
    worlds = assign_ranks(["b", "a", "b", "a", "b"], ["0", "0", "1", "1", "2"])
    assert [world.rank for world in worlds] == [0, 3, 1, 4, 2]
    assert [world.local_rank for world in worlds] == [0, 0, 1, 1, 2]
    assert [world.local_size for world in worlds] == [3, 2, 3, 2, 3]
    assert [(world.cross_rank, world.cross_size) for world in worlds] == [
        (0, 2),
        (1, 2),
        (0, 2),
        (1, 2),
        (0, 1),
    ]
    assert [world.gpu for world in worlds] == ["0", "0", "1", "1", "2"]


@pytest.mark.parametrize("hosts", [["a"], ["a", "a"], ["a", "b", "c"], ["a", "b", "a", "c", "c"]])
def test_horovod_gives_the_same_assignment(hosts):
    from horovod.runner.common.util.hosts import HostInfo, get_host_assignments

    slots = get_host_assignments(
        [HostInfo(host, hosts.count(host)) for host in dict.fromkeys(hosts)], len(hosts)
    )
    ours = sorted(assign_ranks(hosts, [None] * len(hosts)), key=lambda world: world.rank)
    assert [(p.host, p.rank, p.local_rank, p.local_size, p.cross_rank, p.cross_size) for p in ours] == [
        (s.hostname, s.rank, s.local_rank, s.local_size, s.cross_rank, s.cross_size) for s in slots
    ]


@pytest.mark.parametrize(
    ("hosts", "gpus", "num_gpus", "nccl", "expected"),
    [
        (
            ["a", "a"],
            ["3", "1"],
            4,
            True,
            ["cuda:0", "cuda:0"],
        ),  # Spark's GPU is the only one that the task sees
        (["a", "a"], ["3", "1"], 1, False, ["cuda:0", "cuda:0"]),  # the strategy says what is missing
        (["a", "a"], [None, None], 2, True, ["cuda:0", "cuda:1"]),  # one host with a GPU per rank
        (["a", "a"], [None, None], 1, True, ["cpu", "cpu"]),  # two ranks cannot share a GPU
        (["a", "a"], [None, None], 2, False, ["cpu", "cpu"]),
        (["a", "b"], [None, None], 2, True, ["cpu", "cpu"]),  # on a cluster, Spark gives GPUs
        (["a"], [None], 1, True, ["cuda:0"]),
        (["a"], [None], 0, True, ["cpu"]),
    ],
)
def test_a_rank_takes_sparks_gpu_or_its_own_or_the_cpu(hosts, gpus, num_gpus, nccl, expected):
    assert [world.device(num_gpus, nccl=nccl) for world in assign_ranks(hosts, gpus)] == expected


def test_a_gpu_that_torch_cannot_see_is_an_error():
    world = assign_ranks(["a"], ["GPU-5fa2"])[0]
    with pytest.raises(
        RuntimeError, match="Spark gave GPU GPU-5fa2 to rank 0, but torch sees no GPU on a; install"
    ):
        world.device(0, nccl=True)
