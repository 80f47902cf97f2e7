"""Joining torch.distributed's world: rank 0 runs the TCPStore, bound to its own address and to no other."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from pipelines.finetune.launch.addresses import find_interface
from pipelines.finetune.launch.faults import JoinError
from pipelines.finetune.launch.join_horovod import STALL_SECONDS, START_SECONDS
from pipelines.finetune.launch.world import World


def find_fault(host: str) -> str | None:
    """Why this rank cannot join; None = it can."""
    try:
        import torch.distributed

        find_interface(host)
    except (ImportError, OSError) as error:
        return str(error)
    if not torch.distributed.is_available():
        return "torch was built without torch.distributed; set finetune.collectives=horovod"
    return None


class Server:
    """A listening socket that becomes the store on rank 0: given its own socket, the store listens on no
    other address.
    """

    def __init__(self, host: str) -> None:
        self._socket: socket.socket | None = socket.create_server((host, 0))
        self.port: int = self._socket.getsockname()[1]
        self._store: Any = None

    def start(self, worlds: list[World]) -> None:
        """Answer from now on."""
        from torch import distributed as dist

        assert self._socket is not None, "a server is started once"
        self._store = dist.TCPStore(  # type: ignore[attr-defined]
            worlds[0].host,
            self.port,
            len(worlds),
            is_master=True,
            timeout=timedelta(seconds=START_SECONDS),
            wait_for_workers=False,
            master_listen_fd=self._socket.detach(),
        )
        self._socket = None

    @property
    def store(self) -> Any:
        return self._store

    def close(self) -> None:
        self._store = None
        if self._socket is not None:
            self._socket.close()


@contextmanager
def join(world: World, *, address: str, port: int, server: Server | None) -> Iterator[None]:
    """torch's process group initialised inside the context: gloo, and NCCL for tensors on GPUs."""
    import torch
    from torch import distributed as dist

    os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = find_interface(world.host)
    with_nccl = torch.cuda.is_available() and dist.is_nccl_available()
    try:
        try:
            store = (
                server.store
                if server is not None
                else dist.TCPStore(  # type: ignore[attr-defined]
                    address, port, world.world_size, is_master=False, timeout=timedelta(seconds=START_SECONDS)
                )
            )
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if with_nccl else "gloo",
                store=store,
                rank=world.rank,
                world_size=world.world_size,
                timeout=timedelta(seconds=STALL_SECONDS),
            )
        except RuntimeError as error:
            raise JoinError(
                f"ranks did not find each other within {START_SECONDS} s ({error}); "
                "read the error of another rank, and check whether the hosts can reach each other"
            ) from error
        yield
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.pop(name, None)
