import ctypes
import errno
import importlib.util
from pathlib import Path

import pytest

from pipelines.finetune.launch.faults import JoinError, is_echo, is_hardware_fault, may_pass

ECC = "CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be asynchronously reported"
MEMORY = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.10 GiB"
ACCESS = "CUDA error: an illegal memory access was encountered"
ASSERT = "CUDA error: device-side assert triggered"
GLOO = "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.7]:4242"


NCCL = (
    "NCCL error in: NCCLUtils.cpp:94, unhandled cuda error (run with NCCL_DEBUG=INFO for details)\n"
    "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure "
)
HARDWARE_CODES = {46, 214, 220, 226, 714, 802, 805, 806, 807, 810, 911}
"""cudaErrorDevicesUnavailable, ECCUncorrectable, NvlinkUncorrectable, Contained, HardwareStackError,
SystemNotReady, four of MPS, ExternalDevice: by CUDA's documentation neither code nor settings cause them."""


class HorovodInternalError(RuntimeError):
    """As Horovod names it."""


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (RuntimeError(ECC), True),
        (RuntimeError("CUDA error: hardware stack error"), True),
        (RuntimeError("CUDA error: uncorrectable NVLink error detected during the execution"), True),
        (RuntimeError("NCCL error: unhandled system error (run with NCCL_DEBUG=INFO for details)"), True),
        (RuntimeError(f"{NCCL}214 'uncorrectable ECC error encountered'"), True),
        (RuntimeError(f"{NCCL}2 'out of memory'"), False),
        (RuntimeError(f"{NCCL}700 'an illegal memory access was encountered'"), False),
        (RuntimeError("CUDA error: unspecified launch failure"), False),
        (RuntimeError(MEMORY), False),
        (RuntimeError(ACCESS), False),
        (RuntimeError(ASSERT), False),
        (ValueError(ECC), False),  # not CUDA's own error
        (OSError(errno.EIO, "Input/output error"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (FileNotFoundError(errno.ENOENT, "No such file"), False),
        (OSError("an object store without errno"), False),
        (ValueError("row 17 has no label"), False),
    ],
)
def test_only_faults_of_the_machine_may_pass(error, passes):
    assert may_pass(error) is passes


def test_cudas_own_texts_are_told_apart():
    found = importlib.util.find_spec("nvidia")
    places = list(found.submodule_search_locations or ()) if found else []
    libraries = [file for place in places for file in Path(place).glob("*/lib/libcudart.so*")]
    if not libraries:
        pytest.skip("libcudart is missing: torch is a build for CPUs")
    cuda = ctypes.CDLL(str(libraries[0]))
    cuda.cudaGetErrorString.restype = ctypes.c_char_p
    texts = {code: cuda.cudaGetErrorString(code).decode() for code in range(1, 1000)}
    assert texts[700] == "an illegal memory access was encountered"
    hardware = {code for code, text in texts.items() if may_pass(RuntimeError(f"CUDA error: {text}"))}
    assert hardware == HARDWARE_CODES


def test_a_peer_that_left_nccl_is_not_retried():
    assert not may_pass(
        RuntimeError("NCCL error in: x.cpp, remote process exited or there was a network error")
    )


def test_an_ecc_fault_is_hardware_and_lack_of_memory_is_not():
    assert is_hardware_fault(RuntimeError(ECC))
    assert not is_hardware_fault(RuntimeError(MEMORY))


@pytest.mark.parametrize(
    ("error", "echo"),
    [
        (HorovodInternalError("Horovod has been shut down"), True),
        (RuntimeError(GLOO), True),
        (JoinError("another rank cannot join"), True),
        (RuntimeError("NCCL error in: x.cpp, remote process exited or there was a network error"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), False),  # storage, not a rank
    ],
)
def test_an_echo_is_not_the_cause(error, echo):
    assert is_echo(error) is echo
