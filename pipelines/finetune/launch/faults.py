"""Which errors of a rank end the training, and which are worth another launch from the newest checkpoint."""

import errno
import re

LASTING = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""A missing or forbidden file and a full disk: the next try would meet them too."""

_HARDWARE = re.compile(
    r"uncorrectable (ECC|NVLink) error|ECC error|hardware stack error|GPU is lost|fallen off the bus|"
    r"unspecified launch failure|devices? unavailable|system not yet initialized|external device|"
    r"NCCL.*unhandled (system|cuda) error",
    re.IGNORECASE,
)
"""What CUDA and NCCL say of a broken or lost device. Not in it, because the code or its settings cause them:
illegal memory access, device-side assert, invalid argument, out of memory.
"""

_PEER_LEFT = re.compile(
    r"gloo/transport|connection (closed|reset) by peer|Horovod has been shut down|remote process exited",
    re.IGNORECASE,
)


class JoinError(RuntimeError):
    """This rank could not start because of another one."""


def is_hardware_fault(error: BaseException) -> bool:
    """Whether CUDA or NCCL reports a fault of the device, not of the code."""
    return isinstance(error, RuntimeError) and _HARDWARE.search(str(error)) is not None


def may_pass(error: BaseException) -> bool:
    """Whether the next launch may not meet this error: faults of disk, network or GPU.

    The errors of object stores have no errno and do not pass: their clients have tried several times already.
    """
    if isinstance(error, OSError):
        return error.errno is not None and error.errno not in LASTING
    return is_hardware_fault(error)


def is_echo(error: BaseException) -> bool:
    """Whether the error only says that another rank is gone: not the cause."""
    kind = type(error).__name__
    return (
        isinstance(error, JoinError)
        or "Horovod" in kind
        or kind in ("DistBackendError", "DistNetworkError", "DistStoreError")
        or (isinstance(error, RuntimeError) and _PEER_LEFT.search(str(error)) is not None)
    )
