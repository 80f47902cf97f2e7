"""Inside a barrier task: learn this rank's world, join it, work, leave.

Rank 0's task runs the server at which the ranks meet, bound to the address by which its peers reach it.
Addresses and the port travel in one `allGather` of the barrier, because each one costs a second of polling in
Spark.
"""

import json
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any

import pyarrow as pa
from pyspark import BarrierTaskContext

from pipelines.finetune.launch import join_horovod, join_torch
from pipelines.finetune.launch.addresses import find_address
from pipelines.finetune.launch.devices import show_only
from pipelines.finetune.launch.faults import JoinError, is_echo, may_pass
from pipelines.finetune.launch.world import World, assign_ranks
from pipelines.finetune.parallel.rules import Backend

JOINS: dict[Backend, ModuleType] = {"horovod": join_horovod, "torch": join_torch}
"""How to join, by backend of the collectives. Each has find_fault, Server and join."""


OUTCOMES = "rank INT, outcome STRING"
"""One row per rank. The outcome is JSON: a driver that unpickled it would run what an executor sends."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """An exception in one rank, in words."""

    rank: int
    host: str
    summary: str
    traceback: str
    is_echo: bool
    """It says that another rank is gone: not the cause."""


def read_outcome(outcome: str) -> "Any | Failure":
    """The result of a rank as JSON holds it (a tuple is a list), or its Failure."""
    kind, value = json.loads(outcome)
    return Failure(**value) if kind == "failure" else value


def run_partition(
    task: Callable[[], tuple[int, str]],
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """A rank as `mapInArrow` wants it: what comes in is read and ignored, out comes one row of OUTCOMES."""

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            pass
        rank, outcome = task()
        yield pa.RecordBatch.from_pydict(
            {"rank": pa.array([rank], pa.int32()), "outcome": pa.array([outcome], pa.string())}
        )

    return run


def run_task(
    work: Callable[[World], Any], *, num_ranks: int, collectives: Backend, variables: Mapping[str, str]
) -> tuple[int, str]:
    """(rank, outcome for `read_outcome`). `work` returns what JSON can hold. `variables` are in the
    environment until the rank has left: Spark reuses Python workers. Faults of storage, network and GPU are
    raised: Spark then runs the stage again.
    """
    context = BarrierTaskContext.get()
    task = context.partitionId()
    hosts = [info.address.rsplit(":", 1)[0] for info in context.getTaskInfos()]
    if len(hosts) < num_ranks:
        # Spark 4.2 keeps the result of a rank that ended just after another one had failed, and starts only
        # the others again, which would wait for it for ever. An error lets it start all of them.
        raise JoinError(f"Spark started {len(hosts)} of {num_ranks} ranks again; it must start all of them")
    host = find_address(hosts[task], hosts)
    gpus = context.resources().get("gpu")
    joining, has_peers = JOINS[collectives], len(hosts) > 1
    with ExitStack() as cleanup:
        fault = joining.find_fault(host) if has_peers else None
        # Task 0 is always rank 0, so it can open the server before it knows its peers.
        server = joining.Server(host) if task == 0 and has_peers and not fault else None
        if server is not None:
            cleanup.callback(server.close)
        mine = json.dumps([host, gpus.addresses[0] if gpus else None, server.port if server else 0, fault])
        gathered = [json.loads(line) for line in context.allGather(mine)]
        worlds = assign_ranks([each[0] for each in gathered], [each[1] for each in gathered])
        world = worlds[task]
        for name, value in variables.items():
            cleanup.callback(_restore_variable, name, os.environ.get(name))
            os.environ[name] = value
        try:
            _require_all_can_join([each[3] for each in gathered], task)
            with show_only(world.gpu), _joined(context, joining, worlds, task, server, port=gathered[0][2]):
                return world.rank, json.dumps(["result", work(world)])
        except Exception as error:
            if may_pass(error):
                raise
            failure = Failure(
                rank=world.rank,
                host=world.host,
                summary=f"{type(error).__name__}: {error}",
                traceback=traceback.format_exc(),
                is_echo=is_echo(error),
            )
            return world.rank, json.dumps(["failure", asdict(failure)])


def _require_all_can_join(faults: list[str | None], task: int) -> None:
    if faults[task]:
        raise RuntimeError(f"cannot join the other ranks: {faults[task]}")
    if any(faults):
        raise JoinError("another rank cannot join")


@contextmanager
def _joined(
    context: BarrierTaskContext,
    joining: ModuleType,
    worlds: list[World],
    task: int,
    server: Any,
    *,
    port: int,
) -> Iterator[None]:
    """The world joined; a single rank has none.

    Whatever happens, every rank comes to the barrier at the end: the server must outlive the ranks that still
    use it, and a rank that stayed away would keep the others waiting.
    """
    if len(worlds) == 1:
        yield
        return
    with ExitStack() as leaving:
        leaving.callback(context.barrier)
        if server is not None:
            server.start(worlds)
        leaving.enter_context(joining.join(worlds[task], address=worlds[0].host, port=port, server=server))
        yield


def _restore_variable(name: str, value: str | None) -> None:
    """A Python worker is used again."""
    os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value
