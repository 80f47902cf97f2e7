"""Ranks as plain processes, without Spark: they join by the launcher's own code, about a second after the
first call.

The fork server imports torch once; every rank is a fork of it. Work is a function at the top of a module.
"""

import multiprocessing
import os
import traceback
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import pytest

from pipelines.finetune.launch import join_horovod, join_torch
from pipelines.finetune.launch.world import World, assign_ranks

JOINS = {"horovod": join_horovod, "torch": join_torch}
BACKENDS = ("horovod", "torch")
_GRID = [
    ("data_parallel", "horovod", 2),
    ("data_parallel", "torch", 4),
    ("sharded_optimizer", "horovod", 4),
    ("sharded_optimizer", "torch", 2),
    pytest.param("data_parallel", "horovod", 4, marks=pytest.mark.soak),
    pytest.param("data_parallel", "torch", 2, marks=pytest.mark.soak),
    pytest.param("sharded_optimizer", "horovod", 2, marks=pytest.mark.soak),
    pytest.param("sharded_optimizer", "torch", 4, marks=pytest.mark.soak),
]
RANKS_GRID = pytest.mark.parametrize(("strategy", "backend", "num_ranks"), _GRID)
"""All cases of strategies, collectives and ranks. Every pair of values is in the half that is no soak."""
_FULLY_SHARDED = [
    ("fully_sharded", "torch", 2),
    pytest.param("fully_sharded", "torch", 4, marks=pytest.mark.soak),
]
EXACT_GRID = pytest.mark.parametrize(("strategy", "backend", "num_ranks"), [*_GRID, *_FULLY_SHARDED])
"""With fully_sharded: all strategies that equal one process."""
SOAK_FULLY_SHARDED = pytest.param("fully_sharded", marks=pytest.mark.soak)
"""A case of a test that is parametrized by strategy."""
LIMIT_SECONDS = 240
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["pipelines.finetune.worker", "tests.finetune.data", "horovod.torch"])


class RankDiedError(RuntimeError):
    """A rank ended without a result."""


def alone() -> World:
    """The world of a single process."""
    return assign_ranks(["127.0.0.1"], [None])[0]


def run_processes(
    work: Callable[..., Any],
    *args: Any,
    num_ranks: int,
    backend: str = "horovod",
    variables: Mapping[str, str] = MappingProxyType({}),
) -> list[Any]:
    """`work(world, *args)` on every rank, with `variables` in its environment; results by rank. Raises
    RankDiedError with all that ranks said if one fails.
    """
    worlds = assign_ranks(["127.0.0.1"] * num_ranks, [None] * num_ranks)
    results = [_context.Pipe(duplex=False) for _ in worlds]
    port_in, port_out = _context.Pipe(duplex=False)
    # torch's store lives in rank 0; Horovod's server may live anywhere.
    server = join_horovod.Server("127.0.0.1") if backend == "horovod" else None
    if server is not None:
        server.start(worlds)
    ports = [_context.Pipe(duplex=False) for _ in worlds]
    ranks = [
        _context.Process(
            target=_run_rank,
            args=(
                work,
                args,
                world,
                worlds,
                backend,
                server.port if server else 0,
                ports[world.rank][0],
                port_out,
            ),
            kwargs={
                "answer": results[world.rank][1],
                # The fork server has the environment of its start.
                "variables": {"DISTRIBUTARY_CACHE": os.environ.get("DISTRIBUTARY_CACHE", ""), **variables},
            },
            daemon=True,
        )
        for world in worlds
    ]
    for rank in ranks:
        rank.start()
    port_out.close()
    if server is None and port_in.poll(LIMIT_SECONDS):
        port = port_in.recv()
        for _, sender in ports[1:]:
            sender.send(port)
    return _collect(ranks, results, server)


def _collect(ranks: list[Any], results: list[Any], server: Any) -> list[Any]:
    answers = []
    for rank, (receiver, sender) in zip(ranks, results, strict=True):
        sender.close()
        try:
            answers.append(
                receiver.recv() if receiver.poll(LIMIT_SECONDS) else ("error", "no answer in time")
            )
        except EOFError:
            rank.join()
            answers.append(("error", f"rank died with exit code {rank.exitcode}"))
    for rank in ranks:
        rank.join(10)
        rank.kill()
    if server is not None:
        server.close()
    errors = [f"rank {number}: {text}" for number, (kind, text) in enumerate(answers) if kind == "error"]
    if errors:
        raise RankDiedError("\n".join(errors))
    return [value for _, value in answers]


def _run_rank(work, args, world, worlds, backend, port, port_in, port_out, *, answer, variables) -> None:
    import torch

    os.environ.update(variables)
    torch.set_num_threads(1)
    server = None
    try:
        if world.world_size == 1:
            answer.send(("result", work(world, *args)))
            return
        if backend == "torch" and world.rank == 0:
            server = join_torch.Server("127.0.0.1")
            server.start(worlds)
            port_out.send(server.port)
        port_out.close()
        port = port or (server.port if server else port_in.recv())
        with JOINS[backend].join(world, address="127.0.0.1", port=port, server=server):
            answer.send(("result", work(world, *args)))
    except BaseException:
        answer.send(("error", traceback.format_exc()))
    finally:
        answer.close()
        os._exit(0)
