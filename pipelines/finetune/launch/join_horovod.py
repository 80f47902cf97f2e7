"""Joining Horovod's world: rank 0 runs Horovod's rendezvous server, bound to its own address and to no
other.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipelines.finetune.launch.addresses import find_interface
from pipelines.finetune.launch.faults import JoinError
from pipelines.finetune.launch.world import World

START_SECONDS = 60
"""How long Gloo waits for all ranks to connect."""
STALL_SECONDS = 1800
"""How long ranks wait for one that does not come to a collective; longer than a checkpoint takes to be
written.
"""


def find_fault(host: str) -> str | None:
    """Why this rank cannot join; None = it can. Asked before any rank starts: Gloo kills a process whose
    peers do not come.
    """
    try:
        import horovod.torch  # noqa: F401

        find_interface(host)
    except ImportError as error:
        return (
            f"Horovod cannot be imported ({error}), and collectives=horovod needs it on every executor; run "
            "make setup there, install its wheel, or set finetune.collectives=torch or finetune.num_ranks=1"
        )
    except OSError as error:
        return str(error)
    return None


class Server:
    """Horovod's rendezvous server. It listens from the start, so peers that ask early wait, and answers after
    `start`.
    """

    def __init__(self, host: str) -> None:
        from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer

        # Horovod's own starter would listen on every interface.
        self._server: Any = RendezvousHTTPServer((host, 0), RendezvousHandler, 0)
        self._is_serving = False
        self.port: int = self._server.server_port

    def start(self, worlds: list[World]) -> None:
        """Answer from now on."""
        from horovod.runner.common.util.hosts import SlotInfo

        self._server.init(
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
                for each in worlds
            ]
        )
        self._is_serving = True
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()

    def close(self) -> None:
        if self._is_serving:
            self._server.shutdown()
        self._server.server_close()


@contextmanager
def join(world: World, *, address: str, port: int, server: Server | None) -> Iterator[None]:
    """Horovod initialised inside the context. Its environment is removed afterwards: Spark reuses Python
    workers.
    """
    import horovod.torch as hvd

    environment = make_environment(world, address, port)
    os.environ.update(environment)
    try:
        try:
            hvd.init()
        except Exception as error:
            raise JoinError(
                f"ranks did not find each other within {START_SECONDS} s ({error}); "
                "read the error of another rank, and check whether the hosts can reach each other"
            ) from error
        yield
    finally:
        hvd.shutdown()
        for name in environment:
            os.environ.pop(name, None)


def make_environment(world: World, address: str, port: int) -> dict[str, str]:
    """What `hvd.init` reads. `address` and `port` are the server's."""
    return {
        "HOROVOD_HOSTNAME": world.host,
        "HOROVOD_RANK": str(world.rank),
        "HOROVOD_SIZE": str(world.world_size),
        "HOROVOD_LOCAL_RANK": str(world.local_rank),
        "HOROVOD_LOCAL_SIZE": str(world.local_size),
        "HOROVOD_CROSS_RANK": str(world.cross_rank),
        "HOROVOD_CROSS_SIZE": str(world.cross_size),
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": address,
        "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port),
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_IFACE": find_interface(world.host),
        "HOROVOD_GLOO_TIMEOUT_SECONDS": str(START_SECONDS),
        "HOROVOD_LOG_LEVEL": "error",
        # No fusion: what is fused depends on time, and with it the order of additions (parallel/buckets.py
        # sends large buffers).
        "HOROVOD_FUSION_THRESHOLD": "0",
        "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": str(STALL_SECONDS),
    }
