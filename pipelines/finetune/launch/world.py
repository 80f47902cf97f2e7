"""One rank's position in the world of its training, computed from the hosts of all ranks."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """The fields have the meaning that they have in Horovod."""

    rank: int
    world_size: int
    local_rank: int
    """Number of this rank among those on the same host, from 0."""
    local_size: int
    """Number of ranks on this host."""
    cross_rank: int
    """Number of this host among those that have a rank with this local_rank."""
    cross_size: int
    """Number of those hosts."""
    host: str
    """Address of the host, reachable by all ranks."""
    gpu: str | None
    """GPU address that Spark gave to the task: an index, a UUID or a MIG device; None = no GPU."""

    def device(self, num_gpus: int, *, nccl: bool) -> str:
        """Spark's GPU; else GPU local_rank if all ranks share this host and it has enough; else the CPU.

        `num_gpus`: GPUs that torch sees. `nccl`: whether ranks can exchange tensors of GPUs.
        Spark's GPU is cuda:0, because it is the only one that the process sees (devices.show_only).
        """
        if self.gpu is not None:
            if num_gpus < 1:
                raise RuntimeError(
                    f"Spark gave GPU {self.gpu} to rank {self.rank}, but torch sees no GPU on {self.host}; "
                    "install torch for CUDA there, or set finetune.gpus_per_rank=0 and submit without "
                    "spark.task.resource.gpu.amount"
                )
            return "cuda:0"
        return f"cuda:{self.local_rank}" if self.local_size == self.world_size <= num_gpus and nccl else "cpu"


def assign_ranks(hosts: list[str], gpus: list[str | None]) -> list[World]:
    """The world of each task, in task order. Ranks of one host are neighbours, as Horovod requires; task 0 is
    rank 0.
    """
    order = sorted(range(len(hosts)), key=lambda task: (hosts.index(hosts[task]), task))
    sizes = {host: hosts.count(host) for host in hosts}
    num_seen: dict[str, int] = {}
    worlds: dict[int, World] = {}
    for rank, task in enumerate(order):
        host = hosts[task]
        local_rank = num_seen.get(host, 0)
        num_seen[host] = local_rank + 1
        peers = [other for other in dict.fromkeys(hosts) if sizes[other] > local_rank]
        worlds[task] = World(
            rank=rank,
            world_size=len(hosts),
            local_rank=local_rank,
            local_size=sizes[host],
            cross_rank=peers.index(host),
            cross_size=len(peers),
            host=host,
            gpu=gpus[task],
        )
    return [worlds[task] for task in range(len(hosts))]
