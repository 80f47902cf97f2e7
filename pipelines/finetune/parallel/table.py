"""The strategies by name. A new one is its file and a line here."""

from collections.abc import Callable

import torch

from pipelines.finetune.launch.world import World
from pipelines.finetune.parallel.collectives.table import COLLECTIVES, has_nccl
from pipelines.finetune.parallel.data_parallel import DataParallel
from pipelines.finetune.parallel.fully_sharded import FullySharded
from pipelines.finetune.parallel.local_sgd import LocalSgd
from pipelines.finetune.parallel.rules import LocalSgdRules
from pipelines.finetune.parallel.sharded_optimizer import ShardedOptimizer
from pipelines.finetune.parallel.single import SingleProcess
from pipelines.finetune.parallel.strategy import Strategy
from pipelines.finetune.training import Execution


def _single(world: World, execution: Execution, device: torch.device) -> Strategy:
    if world.world_size > 1:
        raise ValueError(
            f"finetune.strategy is single, but there are {world.world_size} ranks; set finetune.num_ranks=1 "
            "or another strategy"
        )
    return SingleProcess(device)


def _data_parallel(world: World, execution: Execution, device: torch.device) -> Strategy:
    return DataParallel(COLLECTIVES[execution.collectives](device), device)


def _sharded_optimizer(world: World, execution: Execution, device: torch.device) -> Strategy:
    return ShardedOptimizer(COLLECTIVES[execution.collectives](device), device)


def _fully_sharded(world: World, execution: Execution, device: torch.device) -> Strategy:
    if execution.collectives != "torch":
        raise ValueError(
            f"strategy fully_sharded needs collectives torch, got {execution.collectives}: Horovod does not "
            "know FSDP; set finetune.collectives=torch"
        )
    return FullySharded(device)


def _local_sgd(world: World, execution: Execution, device: torch.device) -> Strategy:
    rules = execution.local_sgd or LocalSgdRules()
    return LocalSgd(COLLECTIVES[execution.collectives](device), device, rules)


STRATEGIES: dict[str, Callable[[World, Execution, torch.device], Strategy]] = {
    "single": _single,
    "data_parallel": _data_parallel,
    "sharded_optimizer": _sharded_optimizer,
    "fully_sharded": _fully_sharded,
    "local_sgd": _local_sgd,
}


def find_device(world: World, execution: Execution) -> torch.device:
    """Where this rank computes. Raises RuntimeError if Spark gave it a GPU that torch does not see."""
    num_gpus, alone = torch.cuda.device_count(), world.world_size == 1
    # Asked last: a machine without GPUs need not have the backend to say that its ranks use none.
    nccl = num_gpus > 0 and (alone or has_nccl(execution.collectives))
    return torch.device(world.device(num_gpus, nccl=nccl))


def build_strategy(world: World, execution: Execution) -> Strategy:
    """The strategy of this rank, on its device. One rank is always a single process."""
    alone = world.world_size == 1
    device = find_device(world, execution)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    name = execution.strategy if execution.strategy != "auto" else "data_parallel"
    return STRATEGIES["single" if alone else name](world, execution, device)
