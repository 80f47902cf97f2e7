"""Inside a barrier task: find the place, join Horovod's world, work, leave.

Rank 0's task runs Horovod's rendezvous server, bound to the address its peers reach it by and to no other; addresses travel by
the barrier's `allGather`. Horovod's environment is set here and removed afterwards, since Spark uses its Python workers again.
"""

import errno
import json
import os
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
from pyspark import BarrierTaskContext

from pipelines.finetune.launch.world import Place, assign

START_SECONDS = 60
"""How long Gloo waits for all ranks to connect."""
STALL_SECONDS = 1800
"""How long ranks wait for one that does not come to a collective; longer than any checkpoint takes to be written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """An exception in one rank, in words."""

    rank: int
    host: str
    summary: str
    traceback: str
    echo: bool
    """Horovod's complaint that another rank went away: not the cause."""


class HorovodStartError(RuntimeError):
    """This rank could not start because of another one."""


def run_task(work: Callable[[Place], Any]) -> tuple[int, Any]:
    """(rank, result of `work` or Failure). Faults of storage and network are raised: Spark then runs the stage again."""
    context = BarrierTaskContext.get()
    task = context.partitionId()
    infos = context.getTaskInfos()
    host = _address(infos[task].address.rsplit(":", 1)[0])
    gpus = context.resources().get("gpu")
    fault = _fault(host) if len(infos) > 1 else None
    # Task 0 is always rank 0, so that one gathering tells places and server: Spark takes a second for each.
    server = _bind_server(host) if task == 0 and len(infos) > 1 and not fault else None
    mine = json.dumps([host, gpus.addresses[0] if gpus else None, server.server_port if server else 0, fault])
    told = [json.loads(line) for line in context.allGather(mine)]
    places = assign([each[0] for each in told], [each[1] for each in told])
    place = places[task]
    try:
        _require_all([each[3] for each in told], task)
        with _world(context, place, places, server=server, port=told[0][2]):
            return place.rank, work(place)
    except Exception as error:
        if _may_pass(error):
            raise
        return place.rank, Failure(
            rank=place.rank,
            host=place.host,
            summary=f"{type(error).__name__}: {error}",
            traceback=traceback.format_exc(),
            echo="Horovod" in type(error).__name__,
        )
    finally:
        if server is not None:
            server.server_close()


def _may_pass(error: Exception) -> bool:
    """A fault of disk or network that Spark's next try may not meet: not a missing or forbidden file, nor a full disk.

    The errors of object stores have no errno and do not pass: their clients have tried several times already.
    """
    lasting = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    return isinstance(error, OSError) and error.errno is not None and error.errno not in lasting


def _fault(host: str) -> str | None:
    """Why this rank cannot join the others. Asked before any of them starts: Gloo kills a process whose peers do not come."""
    try:
        import horovod.torch  # noqa: F401

        _interface(host)
    except ImportError as error:
        return (
            f"Horovod cannot be imported ({error}), and several ranks need it on every executor; run make setup there, "
            "install its wheel, or set finetune.num_ranks=1"
        )
    except OSError as error:
        return str(error)
    return None


def _require_all(faults: list[str | None], task: int) -> None:
    if faults[task]:
        raise RuntimeError(f"cannot join the other ranks: {faults[task]}")
    if any(faults):
        raise HorovodStartError("another rank cannot join")


@contextmanager
def _world(
    context: BarrierTaskContext, place: Place, places: list[Place], *, server: Any, port: int
) -> Iterator[None]:
    """Horovod initialised on every rank; a single rank needs none.

    Whatever happens, every rank comes to the barrier: one that stayed away would keep the others there.
    """
    if place.world_size == 1:
        yield
        return
    import horovod.torch as hvd

    with ExitStack() as stopping, ExitStack() as leaving:
        leaving.callback(
            context.barrier
        )  # leaving ranks still talk to the server, which must outlive them all
        if server is not None:
            _serve(server, places)
            stopping.callback(server.shutdown)
        environment = _environment(place, places[0].host, port)
        os.environ.update(environment)
        leaving.callback(lambda: [os.environ.pop(name, None) for name in environment])
        leaving.callback(hvd.shutdown)
        try:
            hvd.init()
        except Exception as error:
            raise HorovodStartError(
                f"ranks did not find each other within {START_SECONDS} s ({error}); "
                "look at what another rank says, and whether the hosts reach each other"
            ) from error
        yield


def _bind_server(host: str) -> Any:
    """Horovod's rendezvous server, listening but not answering yet. Horovod's own starter would listen on every interface."""
    from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer

    return RendezvousHTTPServer((host, 0), RendezvousHandler, 0)


def _serve(server: Any, places: list[Place]) -> None:
    """Answer from now on; ranks that asked before have waited."""
    from horovod.runner.common.util.hosts import SlotInfo

    server.init(
        [
            SlotInfo(
                hostname=each.host,
                rank=each.rank,
                local_rank=each.local_rank,
                cross_rank=each.cross_rank,
                size=each.world_size,
                local_size=each.local_size,
                cross_size=each.cross_size,
            )
            for each in places
        ]
    )
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()


def _environment(place: Place, address: str, port: int) -> dict[str, str]:
    return {
        "HOROVOD_HOSTNAME": place.host,
        "HOROVOD_RANK": str(place.rank),
        "HOROVOD_SIZE": str(place.world_size),
        "HOROVOD_LOCAL_RANK": str(place.local_rank),
        "HOROVOD_LOCAL_SIZE": str(place.local_size),
        "HOROVOD_CROSS_RANK": str(place.cross_rank),
        "HOROVOD_CROSS_SIZE": str(place.cross_size),
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": address,
        "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port),
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_IFACE": _interface(place.host),
        "HOROVOD_GLOO_TIMEOUT_SECONDS": str(START_SECONDS),
        "HOROVOD_LOG_LEVEL": "error",
        # Groups of gradients stay as they are (parallel/data_parallel.py).
        "HOROVOD_DISABLE_GROUP_FUSION": "1",
        "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": str(STALL_SECONDS),
    }


def _address(host: str) -> str:
    return socket.gethostbyname(host)


def _interface(address: str) -> str:
    """Name of the network interface that has `address`."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address == address for each in addresses):
            return name
    raise OSError(
        f"no network interface of this host has the address {address} that Spark gave for it; "
        "set spark.driver.host or SPARK_LOCAL_IP"
    )
