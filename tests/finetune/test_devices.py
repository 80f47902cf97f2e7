"""CUDA_VISIBLE_DEVICES on values: no GPU is needed."""

import os

import pytest
import torch

from pipelines.finetune.launch import devices


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(devices, "_started_with", None)
    monkeypatch.delenv(devices.VISIBLE, raising=False)
    monkeypatch.delenv(devices.ORDER, raising=False)


@pytest.mark.parametrize("gpu", ["3", "GPU-5fa2c1de", "MIG-7d2b/1/0"])
def test_only_sparks_gpu_is_visible(gpu, monkeypatch):
    monkeypatch.setenv(devices.VISIBLE, "3")
    with devices.show_only(gpu):
        assert os.environ[devices.VISIBLE] == gpu
    assert os.environ[devices.VISIBLE] == "3"


@pytest.mark.parametrize(
    ("gpu", "order"), [("3", "PCI_BUS_ID"), ("GPU-5fa2c1de", None), ("MIG-7d2b/1/0", None)]
)
def test_an_index_is_counted_as_nvidia_smi_counts(gpu, order):
    with devices.show_only(gpu):
        assert os.environ.get(devices.ORDER) == order
    assert devices.ORDER not in os.environ


def test_the_order_that_the_user_chose_stays(monkeypatch):
    monkeypatch.setenv(devices.ORDER, "FASTEST_FIRST")
    with devices.show_only("3"):
        assert os.environ[devices.ORDER] == "FASTEST_FIRST"
    assert os.environ[devices.ORDER] == "FASTEST_FIRST"


def test_without_a_gpu_from_spark_nothing_changes(monkeypatch):
    monkeypatch.setenv(devices.VISIBLE, "1,2")
    with devices.show_only(None):
        assert os.environ[devices.VISIBLE] == "1,2"


def test_an_unset_variable_is_unset_again():
    with devices.show_only("0"):
        pass
    assert devices.VISIBLE not in os.environ


def test_a_reused_worker_with_another_gpu_is_started_again(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    with devices.show_only("0"):
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)  # the training started CUDA
    with devices.show_only("0"):
        pass
    with (
        pytest.raises(OSError, match="has started CUDA with GPU 0, and Spark now gives it 1"),
        devices.show_only("1"),
    ):
        pass
