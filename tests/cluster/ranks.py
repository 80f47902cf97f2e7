"""Ranks alone, as a job for spark-submit: they meet, add their numbers, and say from where they did it.

Prints one line of JSON: [rank, world size, sum, host name, interface of the rank's address] for each rank.
"""

import json

from pipelines.finetune.launch.barrier import run_ranks
from pipelines.spark import session


def meet(world):
    import socket

    import horovod.torch as hvd
    import torch

    from pipelines.finetune.launch.addresses import find_interface

    total = hvd.allreduce(torch.tensor([world.rank + 1.0]), op=hvd.Sum, name="total").item()
    return world.rank, world.world_size, total, socket.gethostname(), find_interface(world.host)


if __name__ == "__main__":
    print(json.dumps(run_ranks(session("ranks"), meet, num_ranks=4, wait_for_slots_seconds=60)))
