"""Ranks in a real barrier stage. Functions are local, so that they travel to the workers by value."""

import os
import re
import signal
import time

import pytest

from pipelines.finetune.launch.barrier import RankError, num_slots, run_ranks

pytestmark = pytest.mark.horovod


def test_ranks_meet_and_results_come_by_rank(spark):
    def work(place):
        import horovod.torch as hvd
        import torch

        total = float(hvd.allreduce(torch.tensor([place.rank + 1.0]), op=hvd.Sum, name="total"))
        return place.rank, hvd.rank(), place.world_size, total, os.environ["HOROVOD_GLOO_IFACE"]

    assert run_ranks(spark, work, num_ranks=2) == [(0, 0, 2, 3.0, "lo"), (1, 1, 2, 3.0, "lo")]


def test_one_rank_needs_no_horovod(spark):
    def work(place):
        return place.rank, place.world_size, "HOROVOD_RANK" in os.environ

    assert run_ranks(spark, work, num_ranks=1) == [(0, 1, False)]


def test_an_exception_reaches_the_driver_with_rank_host_and_its_own_traceback_at_once(spark, tmp_path):
    def work(place):
        import horovod.torch as hvd
        import torch

        with (tmp_path / f"tries-{place.rank}").open("a") as file:
            file.write("x")
        if place.rank == 1:
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
    ]  # a fault of the code is not tried again


def test_a_killed_rank_makes_spark_run_all_ranks_again(spark, tmp_path):
    def work(place):
        import horovod.torch as hvd
        import torch

        first = not (tmp_path / "died").exists()
        hvd.allreduce(torch.ones(1), op=hvd.Sum, name="before")
        if place.rank == 1 and first:
            (tmp_path / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return float(hvd.allreduce(torch.ones(1), op=hvd.Sum, name="after"))

    assert run_ranks(spark, work, num_ranks=2) == [2.0, 2.0]
    assert (tmp_path / "died").exists()


def test_storage_errors_are_tried_again_by_spark(spark, tmp_path):
    def work(place):
        if place.rank == 0 and not (tmp_path / "failed").exists():
            (tmp_path / "failed").touch()
            raise OSError(5, "Input/output error")
        return place.rank

    assert run_ranks(spark, work, num_ranks=2) == [0, 1]
    assert (tmp_path / "failed").exists()


def test_a_fault_that_no_try_overcomes_is_told_with_the_ranks_own_traceback(spark):
    def work(place):
        raise OSError(5, "Input/output error of the disk")

    with pytest.raises(
        RankError, match=r"failed at every try: OSError: \[Errno 5\] Input/output error of the disk"
    ) as caught:
        run_ranks(spark, work, num_ranks=1)
    assert 'raise OSError(5, "Input/output error of the disk")' in str(caught.value)
    assert "org.apache.spark" not in str(caught.value)


def test_a_full_disk_is_told_at_once(spark):
    def work(place):
        raise OSError(28, "No space left on device")

    with pytest.raises(
        RankError, match=r"rank 0 on 127\.0\.0\.1 failed: OSError: \[Errno 28\] No space left"
    ):
        run_ranks(spark, work, num_ranks=1)


@pytest.mark.parametrize("without", [0, 1])
@pytest.mark.parametrize(
    ("lost", "told"),
    [
        (
            "horovod.torch",
            r"Horovod cannot be imported \(.*\), and several ranks need it on every executor; run make setup there",
        ),
        (
            "network",
            r"no network interface of this host has the address 127\.0\.0\.1 that Spark gave for it; set spark.driver.host",
        ),
    ],
)
def test_a_rank_that_cannot_join_is_told_and_keeps_nobody_waiting(spark, lost, told, without):
    def task(_):
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
                sys.modules[lost] = None  # Python's way to say: cannot be imported
        try:
            yield run_task(lambda place: "worked")
        finally:
            sys.modules["horovod.torch"], psutil.net_if_addrs = horovod.torch, interfaces

    failures = dict(spark.sparkContext.parallelize(range(2), 2).barrier().mapPartitions(task).collect())
    assert [failures[rank].echo for rank in (0, 1)] == [
        rank != without for rank in (0, 1)
    ]  # the cause is told, not the echo
    assert re.match(f"RuntimeError: cannot join the other ranks: {told}", failures[without].summary)


def test_a_missing_file_is_told_at_once_instead_of_tried_again(spark, tmp_path):
    def work(place):
        with (tmp_path / f"tries-{place.rank}").open("a") as file:
            file.write("x")
        (tmp_path / "tokenizer.json").read_bytes()

    with pytest.raises(RankError, match=r"failed: FileNotFoundError: .*tokenizer.json"):
        run_ranks(spark, work, num_ranks=1)
    assert (tmp_path / "tries-0").read_text() == "x"


def test_more_ranks_than_slots_is_refused_at_once_with_the_remedy(spark):
    assert num_slots(spark) == 2
    started = time.monotonic()
    with pytest.raises(
        ValueError,
        match=r"num_ranks is 3, but local\[2,4\] runs 2 tasks at once; "
        r"set finetune.num_ranks=2 or give Spark --master local\[3,4\]",
    ):
        run_ranks(spark, print, num_ranks=3)
    assert time.monotonic() - started < 10  # the promise to the user, not a measure of speed


def test_the_driver_watches_while_ranks_work_and_can_stop_them(spark, tmp_path):
    def work(place):
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
    assert run_ranks(spark, lambda place: place.rank, num_ranks=2) == [0, 1]


def test_the_rendezvous_listens_on_the_ranks_address_only(spark):
    def work(place):
        import psutil

        if place.rank == 0:
            return [c.laddr.ip for c in psutil.Process().net_connections("tcp") if c.status == "LISTEN"]
        return []

    addresses, _ = run_ranks(spark, work, num_ranks=2)
    assert addresses
    assert set(addresses) == {"127.0.0.1"}
