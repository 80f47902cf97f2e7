"""Inside a barrier task: find the place, join Horovod's world, work, leave.

Rank 0's task runs Horovod's rendezvous server, bound to the address its peers reach it by and to no other; addresses travel by
the barrier's `allGather`. Horovod's environment is set here and removed afterwards, since Spark uses its Python workers again.
"""

import json
import os
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
from pyspark import BarrierTaskContext

from pipelines.finetune.place import Place, assign

START_SECONDS = 60
"""How long Gloo waits for all ranks to connect."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """An exception in one rank, in words."""

    rank: int
    host: str
    summary: str
    traceback: str
    echo: bool
    """Horovod's complaint that another rank went away: not the cause."""


def run_task(work: Callable[[Place], Any]) -> tuple[int, Any]:
    """(rank, result of `work` or Failure). Storage and network errors are raised: Spark then runs the stage again."""
    context = BarrierTaskContext.get()
    task = context.partitionId()
    host = _address(context.getTaskInfos()[task].address.rsplit(":", 1)[0])
    gpus = context.resources().get("gpu")
    told = [json.loads(line) for line in context.allGather(json.dumps([host, gpus.addresses[0] if gpus else None]))]
    places = assign([each[0] for each in told], [each[1] for each in told])
    place = places[task]
    with _world(context, place, places):
        try:
            return place.rank, work(place)
        except OSError:
            raise
        except Exception as error:
            return place.rank, Failure(rank=place.rank, host=place.host, summary=f"{type(error).__name__}: {error}",
                                       traceback=traceback.format_exc(), echo="Horovod" in type(error).__name__)


@contextmanager
def _world(context: BarrierTaskContext, place: Place, places: list[Place]) -> Iterator[None]:
    """Horovod initialised on every rank; a single rank needs none."""
    if place.world_size == 1:
        yield
        return
    import horovod.torch as hvd

    server = _start_server(places) if place.rank == 0 else None
    mine = json.dumps([place.rank, place.host, server.server_port if server else 0])
    _, address, port = min(json.loads(line) for line in context.allGather(mine))
    environment = _environment(place, address, port)
    os.environ.update(environment)
    try:
        hvd.init()
        yield
    finally:
        hvd.shutdown()
        for name in environment:
            os.environ.pop(name, None)
        # Leaving ranks still talk to the server, which must outlive them all.
        context.barrier()
        if server is not None:
            server.shutdown()
            server.server_close()


def _start_server(places: list[Place]) -> Any:
    from horovod.runner.common.util.hosts import SlotInfo
    from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer

    rank_zero = next(place for place in places if place.rank == 0)
    # Horovod's own starter listens on every interface; the server has no authentication.
    server = RendezvousHTTPServer((rank_zero.host, 0), RendezvousHandler, 0)
    server.init([SlotInfo(hostname=each.host, rank=each.rank, local_rank=each.local_rank, cross_rank=each.cross_rank,
                          size=each.world_size, local_size=each.local_size, cross_size=each.cross_size) for each in places])
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def _environment(place: Place, address: str, port: int) -> dict[str, str]:
    return {
        "HOROVOD_HOSTNAME": place.host, "HOROVOD_RANK": str(place.rank), "HOROVOD_SIZE": str(place.world_size),
        "HOROVOD_LOCAL_RANK": str(place.local_rank), "HOROVOD_LOCAL_SIZE": str(place.local_size),
        "HOROVOD_CROSS_RANK": str(place.cross_rank), "HOROVOD_CROSS_SIZE": str(place.cross_size),
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": address, "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port), "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo", "HOROVOD_GLOO_IFACE": _interface(place.host),
        "HOROVOD_GLOO_TIMEOUT_SECONDS": str(START_SECONDS), "HOROVOD_LOG_LEVEL": "error",
    }


def _address(host: str) -> str:
    return socket.gethostbyname(host)


def _interface(address: str) -> str:
    """Name of the network interface that has `address`."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address == address for each in addresses):
            return name
    raise OSError(f"no network interface of this host has the address {address} that Spark gave for it; "
                  "set spark.driver.host or SPARK_LOCAL_IP")
