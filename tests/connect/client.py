"""Ranks over Spark Connect: one process tries everything and prints what it saw as JSON.

    python -m tests.connect.client sc://HOST:PORT FOLDER

A process of its own, because pyspark is either classic or Connect, and because it must do without Java.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from pipelines.contract import ContractError
from pipelines.finetune.launch.barrier import RankError, run_ranks
from pipelines.finetune.launch.slots import require_slots
from pipelines.spark import count_slots, session
from pipelines.tables import QUARANTINE


def main(remote: str, folder: Path) -> dict:
    spark = session("ranks over Connect", {"spark.remote": remote})
    return {
        "session": type(spark).__module__,
        "slots": count_slots(spark),
        **{name: look(spark, folder) for name, look in LOOKS.items()},
    }


def meet(spark, folder):
    def work(world):
        import horovod.torch as hvd
        import torch

        import pipelines

        total = hvd.allreduce(torch.tensor([world.rank + 1.0]), op=hvd.Sum, name="total").item()
        return world.rank, world.world_size, total, pipelines.__file__

    return run_ranks(spark, work, num_ranks=2)


def raise_in_one_rank(spark, folder):
    def work(world):
        with (folder / f"tries-{world.rank}").open("a") as file:
            file.write("x")
        if world.rank == 1:
            raise ValueError("row 17 has no label")
        return world.rank

    try:
        return run_ranks(spark, work, num_ranks=2)
    except RankError as error:
        return [str(error), (folder / "tries-1").read_text()]


def kill_one_rank(spark, folder):
    def work(world):
        if world.rank == 1 and not (folder / "died").exists():
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return world.rank

    return [run_ranks(spark, work, num_ranks=2), (folder / "died").exists()]


def fail_at_every_try(spark, folder):
    def work(world):
        raise OSError(5, "Input/output error of the disk")

    try:
        return run_ranks(spark, work, num_ranks=1)
    except RankError as error:
        return str(error)


def ask_for_too_many(spark, folder):
    started = time.monotonic()
    try:
        return require_slots(spark, 3)
    except ValueError as error:
        return [str(error), time.monotonic() - started]


def stop_the_ranks(spark, folder):
    def work(world):
        (folder / f"working-{world.rank}").touch()
        time.sleep(120)

    def watch():
        if len(list(folder.glob("working-*"))) == 2:
            raise InterruptedError

    started = time.monotonic()
    try:
        run_ranks(spark, work, num_ranks=2, while_waiting=watch)
    except InterruptedError:
        # The slots must be free again, or this launch would wait for the sleepers.
        ranks = run_ranks(spark, lambda world: world.rank, num_ranks=2)
        return [ranks, time.monotonic() - started]


def repeat_a_key(spark, folder):
    # 9,001 rows in tasks of 4,500: more than a task sends to the driver.
    rows = (
        spark.range(0, 9_000, 1, 2)
        .union(spark.range(77, 78))
        .selectExpr(
            "'s' AS source", "'f' AS file", "id AS offset", "1L AS line", "'r' AS reason", "X'' AS raw"
        )
    )
    with QUARANTINE.hold(rows.where("offset != 77"), str(folder / "quarantine")) as held:
        num_rows, files = held.num_rows, list(folder.rglob("*.keys"))
    try:
        with QUARANTINE.hold(rows, str(folder / "quarantine")):
            return None
    except ContractError as error:
        return [num_rows, len(files), str(error)]


LOOKS = {
    look.__name__: look
    for look in (
        meet,
        raise_in_one_rank,
        kill_one_rank,
        fail_at_every_try,
        ask_for_too_many,
        stop_the_ranks,
        repeat_a_key,
    )
}

if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))
