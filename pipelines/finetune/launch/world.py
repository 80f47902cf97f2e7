"""Where one rank stands in the world of its training."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    rank: int
    world_size: int
    local_rank: int
    """Rank among those of the same host."""
    local_size: int
    cross_rank: int
    """Number of the host among those that have this local rank."""
    cross_size: int
    host: str
    gpu: str | None
    """GPU address that Spark gave to the task; null = none."""

    def device(self, num_gpus: int, *, nccl: bool) -> str:
        """Spark's GPU; where Spark knows of none, one a rank if this machine has one for each of all ranks; else the CPU.

        `nccl`: whether GPUs of several ranks can work together.
        """
        if self.gpu is not None:
            return f"cuda:{self.gpu}"
        return f"cuda:{self.local_rank}" if self.local_size == self.world_size <= num_gpus and nccl else "cpu"


def assign(hosts: list[str], gpus: list[str | None]) -> list[Place]:
    """The place of each task, given every task's host in task order: ranks of one host are neighbours (Horovod requires it)."""
    order = sorted(range(len(hosts)), key=lambda task: (hosts.index(hosts[task]), task))
    sizes = {host: hosts.count(host) for host in hosts}
    seen: dict[str, int] = {}
    places: dict[int, Place] = {}
    for rank, task in enumerate(order):
        host = hosts[task]
        local_rank = seen.get(host, 0)
        seen[host] = local_rank + 1
        peers = [other for other in dict.fromkeys(hosts) if sizes[other] > local_rank]
        places[task] = Place(
            rank=rank,
            world_size=len(hosts),
            local_rank=local_rank,
            local_size=sizes[host],
            cross_rank=peers.index(host),
            cross_size=len(peers),
            host=host,
            gpu=gpus[task],
        )
    return [places[task] for task in range(len(hosts))]
