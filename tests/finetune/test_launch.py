"""Ranks in a real barrier stage. Functions are local, so that they travel to the workers by value."""

import os
import re
import signal
import time

import pytest
from py4j.protocol import Py4JJavaError

from pipelines.finetune.launch.barrier import RankError, run_ranks
from pipelines.finetune.launch.rendezvous import OUTCOMES, read_outcome, run_partition
from pipelines.finetune.launch.slots import num_slots
from pipelines.finetune.training import Execution

pytestmark = [pytest.mark.slow, pytest.mark.horovod]


@pytest.mark.parametrize("backend", ["horovod", "torch"])
def test_ranks_meet_and_results_come_by_rank(spark, backend):
    def work(world):
        import os

        import torch

        from pipelines.finetune.parallel.collectives.table import COLLECTIVES

        total = torch.tensor([world.rank + 1.0])
        COLLECTIVES[backend](torch.device("cpu")).sum(total, name="total").wait()
        interface = os.environ["HOROVOD_GLOO_IFACE" if backend == "horovod" else "GLOO_SOCKET_IFNAME"]
        return world.rank, world.world_size, float(total), interface, os.environ["OF_THIS_LAUNCH"]

    results = run_ranks(spark, work, num_ranks=2, collectives=backend, variables={"OF_THIS_LAUNCH": "yes"})
    assert results == [[0, 2, 3.0, "lo", "yes"], [1, 2, 3.0, "lo", "yes"]]


def test_one_rank_needs_no_horovod(spark):
    def work(world):
        return world.rank, world.world_size, [*({"HOROVOD_RANK", "OF_THIS_LAUNCH"} & {*os.environ})]

    assert run_ranks(spark, work, num_ranks=1) == [[0, 1, []]]


def test_an_exception_reaches_the_driver_with_its_traceback(spark, tmp_path):
    def work(world):
        import horovod.torch as hvd
        import torch

        with (tmp_path / f"tries-{world.rank}").open("a") as file:
            file.write("x")
        if world.rank == 1:
            raise ValueError("row 17 has no label")
        return hvd.allreduce(torch.ones(1), op=hvd.Sum, name="waits for rank 1")

    with pytest.raises(
        RankError, match=r"rank 1 on 127\.0\.0\.1 failed: ValueError: row 17 has no label"
    ) as caught:
        run_ranks(spark, work, num_ranks=2)
    assert 'raise ValueError("row 17 has no label")' in str(caught.value)
    assert [(tmp_path / f"tries-{rank}").read_text() for rank in (0, 1)] == [
        "x",
        "x",
    ]  # an error of the code is not tried again


def test_a_killed_rank_starts_all_ranks_again(spark, tmp_path):
    def work(world):
        import horovod.torch as hvd
        import torch

        first = not (tmp_path / "died").exists()
        hvd.allreduce(torch.ones(1), op=hvd.Sum, name="before")
        if world.rank == 1 and first:
            (tmp_path / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return float(hvd.allreduce(torch.ones(1), op=hvd.Sum, name="after"))

    assert run_ranks(spark, work, num_ranks=2) == [2.0, 2.0]
    assert (tmp_path / "died").exists()


def test_spark_tries_again_after_a_storage_error(spark, tmp_path):
    def work(world):
        if world.rank == 0 and not (tmp_path / "failed").exists():
            (tmp_path / "failed").touch()
            raise OSError(5, "Input/output error")
        return world.rank

    assert run_ranks(spark, work, num_ranks=2) == [0, 1]
    assert (tmp_path / "failed").exists()


def test_ranks_that_spark_starts_without_the_others_start_again(spark):
    """A stage of one task stands for what Spark does if a rank ends just after another one has failed."""

    def task():
        from pipelines.finetune.launch.rendezvous import run_task

        return run_task(lambda world: "worked", num_ranks=2, collectives="horovod", variables={})

    ranks = spark.range(0, 1, 1, 1).mapInArrow(run_partition(task), OUTCOMES, barrier=True)
    with pytest.raises(Py4JJavaError, match=r"Spark started 1 of 2 ranks again; it must start all"):
        ranks.collect()


def test_a_lasting_fault_keeps_the_ranks_traceback(spark):
    def work(world):
        raise OSError(5, "Input/output error of the disk")

    with pytest.raises(
        RankError, match=r"failed at every try: OSError: \[Errno 5\] Input/output error of the disk"
    ) as caught:
        run_ranks(spark, work, num_ranks=1)
    assert 'raise OSError(5, "Input/output error of the disk")' in str(caught.value)
    assert "org.apache.spark" not in str(caught.value)


def test_a_full_disk_fails_at_once(spark):
    def work(world):
        raise OSError(28, "No space left on device")

    with pytest.raises(
        RankError, match=r"rank 0 on 127\.0\.0\.1 failed: OSError: \[Errno 28\] No space left"
    ):
        run_ranks(spark, work, num_ranks=1)


@pytest.mark.parametrize("without", [0, 1])
@pytest.mark.parametrize(
    ("lost", "message"),
    [
        (
            "horovod.torch",
            r"Horovod cannot be imported \(.*\), and collectives=horovod needs it on every executor; run",
        ),
        (
            "network",
            r"no network interface of this host has the address 127\.0\.0\.1 that Spark gave for it; set",
        ),
    ],
)
def test_a_rank_that_cannot_join_keeps_no_rank_waiting(spark, lost, message, without):
    def task():
        import sys

        import horovod.torch
        import psutil
        from pyspark import BarrierTaskContext

        from pipelines.finetune.launch.rendezvous import run_task

        interfaces = psutil.net_if_addrs
        if BarrierTaskContext.get().partitionId() == without:
            if lost == "network":
                psutil.net_if_addrs = dict
            else:
                sys.modules[lost] = None  # Python then refuses to import it
        try:
            return run_task(lambda world: "worked", num_ranks=2, collectives="horovod", variables={})
        finally:
            sys.modules["horovod.torch"], psutil.net_if_addrs = horovod.torch, interfaces

    ranks = spark.range(0, 2, 1, 2).mapInArrow(run_partition(task), OUTCOMES, barrier=True).collect()
    failures = {row["rank"]: read_outcome(row["outcome"]) for row in ranks}
    assert [failures[rank].is_echo for rank in (0, 1)] == [
        rank != without for rank in (0, 1)
    ]  # the cause is reported, not the echo
    assert re.match(f"RuntimeError: cannot join the other ranks: {message}", failures[without].summary)


def test_a_missing_file_fails_at_once(spark, tmp_path):
    def work(world):
        with (tmp_path / f"tries-{world.rank}").open("a") as file:
            file.write("x")
        (tmp_path / "tokenizer.json").read_bytes()

    with pytest.raises(RankError, match=r"failed: FileNotFoundError: .*tokenizer.json"):
        run_ranks(spark, work, num_ranks=1)
    assert (tmp_path / "tries-0").read_text() == "x"


def test_more_ranks_than_slots_are_refused_at_once(spark):
    assert num_slots(spark) == 2
    started = time.monotonic()
    with pytest.raises(
        ValueError,
        match=r"num_ranks is 3, but local\[2,4\] runs 2 tasks at once; "
        r"set finetune.num_ranks=2 or give Spark --master local\[3,4\]",
    ):
        run_ranks(spark, print, num_ranks=3)
    assert time.monotonic() - started < 10  # the promise to the user, not a measure of speed


def test_a_local_master_assigns_no_gpus(spark):
    with pytest.raises(
        ValueError,
        match=r"gpus_per_rank is 1, but local\[2,4\] assigns no GPUs to tasks; set .*gpus_per_rank=0",
    ):
        run_ranks(spark, print, num_ranks=1, gpus_per_rank=1.0)


@pytest.mark.parametrize("share", [-0.5, 1.5, 2])
def test_a_rank_takes_one_gpu_or_a_part(share):
    with pytest.raises(
        ValueError, match=r"gpus_per_rank must be in \[0, 1\], got .*: a rank trains on one GPU"
    ):
        Execution(micro_batch=1, num_threads=1, gpus_per_rank=share)


def test_the_driver_can_stop_working_ranks(spark, tmp_path):
    def work(world):
        time.sleep(60)

    class StopError(Exception):
        pass

    calls = []

    def watch():
        calls.append(time.monotonic())
        if len(calls) == 3:
            raise StopError

    with pytest.raises(StopError):
        run_ranks(spark, work, num_ranks=2, while_waiting=watch)
    # The slots are free again: the next launch would otherwise wait for the sleepers.
    assert run_ranks(spark, lambda world: world.rank, num_ranks=2) == [0, 1]


@pytest.mark.parametrize("backend", ["horovod", "torch"])
def test_rank_0_listens_on_its_own_address_only(spark, backend):
    def work(world):
        import psutil

        if world.rank == 0:
            return [c.laddr.ip for c in psutil.Process().net_connections("tcp") if c.status == "LISTEN"]
        return []

    addresses, _ = run_ranks(spark, work, num_ranks=2, collectives=backend)
    assert addresses
    assert set(addresses) == {"127.0.0.1"}


def test_a_gpu_fault_is_launched_again(spark, tmp_path):
    def work(world):
        if not (tmp_path / "failed").exists():
            (tmp_path / "failed").touch()
            raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
        return world.rank

    assert run_ranks(spark, work, num_ranks=1) == [0]
    assert (tmp_path / "failed").exists()


def test_the_torch_backend_needs_no_horovod(spark):
    def work(world):
        import sys

        import torch

        from pipelines.finetune.parallel.collectives.table import COLLECTIVES

        hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith("horovod")}
        sys.modules["horovod"] = None  # Python then refuses to import it
        try:
            total = torch.ones(1)
            COLLECTIVES["torch"](torch.device("cpu")).sum(total, name="total").wait()
            return float(total)
        finally:
            sys.modules.pop("horovod")
            sys.modules.update(hidden)

    assert run_ranks(spark, work, num_ranks=2, collectives="torch") == [2.0, 2.0]
