"""Which errors of a rank end the training, and which are worth another launch from the newest checkpoint."""

import errno
import re

LASTING = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""A missing or forbidden file and a full disk: the next try would meet them too."""

_HARDWARE = re.compile(
    r"uncorrectable (ECC|NVLink) error|ECC error|hardware (stack )?error|GPU is lost|fallen off the bus|"
    r"busy or unavailable|system not yet initialized|external entity outside of CUDA|"
    r"MPS client (failed|has been terminated)|MPS server (is not ready|and the MPS client failed)|"
    r"NCCL.*unhandled (system|cuda) error",
    re.IGNORECASE,
)
"""What CUDA, NVML and NCCL say of a device that is broken, lost or not ready; CUDA's texts are those of
cudaGetErrorString.
"""
_CODE = re.compile(
    r"out of memory|illegal (memory access|address|instruction)|misaligned address|device-side assert|"
    r"unspecified launch failure|invalid (argument|device|usage)",
    re.IGNORECASE,
)
"""What the code or its settings cause, also when NCCL reports it as its last CUDA error. CUDA's documentation
names invalid pointers as the common cause of an unspecified launch failure.
"""

_PEER_LEFT = re.compile(
    r"gloo/transport|connection (closed|reset) by peer|Horovod has been shut down|remote process exited",
    re.IGNORECASE,
)


class JoinError(RuntimeError):
    """This rank could not start, or go on, because of another one."""


def is_hardware_fault(error: BaseException) -> bool:
    """Whether CUDA or NCCL reports a fault of the device, not of the code."""
    text = str(error)
    return isinstance(error, RuntimeError) and bool(_HARDWARE.search(text)) and not _CODE.search(text)


def may_pass(error: BaseException) -> bool:
    """Whether the next launch may not meet this error: faults of disk, network or GPU.

    The errors of object stores have no errno and do not pass: their clients have tried several times already.
    """
    if isinstance(error, OSError):
        return error.errno is not None and error.errno not in LASTING
    return is_hardware_fault(error)


def find_traceback(account: str) -> str:
    """The first Python traceback in the JVM's account of a failed stage; empty if there is none."""
    found = re.search(
        r"Traceback \(most recent call last\):\n.*?(?=\n\s*\n|\n\tat |\s+SQLSTATE)", account, re.DOTALL
    )
    return found[0] if found else ""


def is_echo(error: BaseException) -> bool:
    """Whether the error only says that another rank is gone: not the cause."""
    kind = type(error).__name__
    return (
        isinstance(error, JoinError)
        or "Horovod" in kind
        or kind in ("DistBackendError", "DistNetworkError", "DistStoreError")
        or (isinstance(error, RuntimeError) and _PEER_LEFT.search(str(error)) is not None)
    )
