"""Exit statuses, for schedulers: is it done, does a retry make sense, or must a person change something?

The numbers are those of sysexits.h where it has one. An error is judged by its type and by when it appeared:
while the configuration was read, or while a stage ran.
"""

import errno
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from types import FrameType
from typing import NoReturn


class Exit(IntEnum):
    """Status of a command. Only RETRY, PREEMPTED and the interruptions are worth another try without a
    change."""

    DONE = 0
    """Done, or nothing to do."""
    UNEXPECTED = 1
    """An error that none of the others describes: a fault in the code, or in a library."""
    USAGE = 2
    """The command line cannot be read."""
    INPUT = 65
    """Input rows, files or models must be corrected, or a stage above must run first."""
    RETRY = 75
    """Cluster, storage or tracking server failed, or another run works in the same place: try again later."""
    CONFIGURATION = 78
    """The configuration or the environment must be corrected: a key, a master, keys of the storage, packages
    on the executors."""
    PREEMPTED = 79
    """A training made room because it was asked to (SIGUSR1): it ended at a checkpoint. The next run
    continues."""
    INTERRUPTED = 130
    """Ctrl-C. The next run continues."""
    TERMINATED = 143
    """SIGTERM, as schedulers send it. The next run continues."""


HELP = """\b
Exit status:
  0    done, or nothing to do
  1    unexpected error: a fault in the code or in a library
  2    the command line cannot be read
  65   input must be corrected, or a stage above must run first
  75   cluster, storage or tracking server failed, or another run is in progress: try again later
  78   the configuration or the packages of executors must be corrected
  79   the training made room at a checkpoint (SIGUSR1); the next run continues
  130  interrupted (143: by SIGTERM); the next run continues"""
"""For the help of every command that runs stages."""

KINDS = {
    Exit.DONE: "none",
    Exit.UNEXPECTED: "unexpected",
    Exit.USAGE: "configuration",
    Exit.INPUT: "input",
    Exit.RETRY: "infrastructure",
    Exit.CONFIGURATION: "configuration",
    Exit.PREEMPTED: "interrupted",
    Exit.INTERRUPTED: "interrupted",
    Exit.TERMINATED: "interrupted",
}
"""What the summary calls the error of a status."""

_LASTING = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.EEXIST)
"""Errors of files that a person must correct. A full disk is not one: others may free it."""
_DENIED = re.compile(
    r"ACCESS_DENIED|AccessDenied|INVALID_ACCESS_KEY_ID|InvalidAccessKeyId|SIGNATURE_DOES_NOT_MATCH|"
    r"SignatureDoesNotMatch|NO_SUCH_BUCKET|NoSuchBucket|InvalidClientTokenId|HTTP response code: 40[13]|"
    r"correct the keys|create the bucket|Spark lacks the jars|out-of-date database schema|"
    r"correct corpus\.kafka\.properties|"
    r"status code 40[13]|PYTHON_VERSION_MISMATCH|Spark needs Java|cannot run ranks"
)
"""What storage, MLflow and our own checks say of wrong keys, a missing bucket, an old schema, another Java,
or an access mode of a platform that runs no ranks."""
_UNAVAILABLE = re.compile(
    r"Max retries exceeded|Connection (refused|reset|aborted)|timed out|[Tt]imeout|TEMPORARILY_UNAVAILABLE|"
    r"database is locked|No route to host|Name or service not known|UnknownHostException|"
    r"java\.net\.|java\.io\.IOException|ExecutorLostFailure|Lost executor|exceeded with HTTP|"
    r"status code 5\d\d|error code 50[234]|the ranks failed at every try|SparkContext was shut down|"
    r"client error \(Connect\)|error sending request|"
    r"another writer changed the rows meanwhile|but the champion is now|changed while it was read"
)
"""What libraries say of a server, an executor or a network that does not answer, and what we say of another
driver that was faster."""
_WORKER_ERROR = re.compile(r"^(?:\w+\.)*(\w+(?:Error|Exception))(?::|$)", re.MULTILINE)
"""The type at the beginning of the last line of a traceback."""


class PreflightError(RuntimeError):
    """Something that a long work needs is not there, with the status that the command ends with."""

    def __init__(self, message: str, status: Exit) -> None:
        super().__init__(message)
        self.status = status


class Stopped(KeyboardInterrupt):
    """SIGTERM arrived. A KeyboardInterrupt, which libraries let pass and contexts clean up after."""


def find_exit(error: BaseException, *, configuring: bool) -> Exit:
    """The status of an error; `configuring`: it appeared before the configuration was complete."""
    if type(error).__name__ == "Preempted":
        return Exit.PREEMPTED
    if isinstance(error, KeyboardInterrupt):
        return Exit.TERMINATED if isinstance(error, Stopped) else Exit.INTERRUPTED
    if isinstance(error, PreflightError):
        return error.status
    text = str(error)
    message = _leave_out_frames(text)
    if _DENIED.search(message):
        return Exit.CONFIGURATION
    if _is_passing(error, message):
        return Exit.RETRY
    if configuring or isinstance(error, ImportError):
        return Exit.CONFIGURATION
    if isinstance(error, (ValueError, OSError)) or type(error) is LookupError:
        return Exit.INPUT
    return _judge_worker(text)


def _leave_out_frames(text: str) -> str:
    """The lines that say what happened. Frames of a traceback are indented; they quote code and names of
    classes, which may hold any word, such as `timeout=5`."""
    return "\n".join(line for line in text.splitlines() if not line[:1].isspace())


def _is_passing(error: BaseException, message: str) -> bool:
    """Whether the same command may succeed later, with nothing changed."""
    names = {each.__name__ for each in type(error).__mro__}
    if names & {"LeaseHeldError", "LeaseLostError", "Py4JNetworkError", "ChangedMeanwhileError"}:
        return True
    if isinstance(error, OSError):
        return error.errno not in _LASTING if error.errno is not None else _is_fault_of_store(error)
    # ValueError: our own text about a value, which may hold any word.
    return not isinstance(error, (ValueError, LookupError, TypeError)) and bool(_UNAVAILABLE.search(message))


def _is_fault_of_store(error: OSError) -> bool:
    """An error without a number: of an object store or a client, unless it is of a kind that lasts."""
    lasting = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
    return not isinstance(error, lasting)


def _judge_worker(text: str) -> Exit:
    """An error that Spark carries: by the type of the Python error in a worker, if there is one."""
    _, found, frames = text.rpartition("Traceback (most recent call last):")
    kinds = _WORKER_ERROR.findall(frames) if found else []
    if kinds and kinds[0] in ("ValueError", "ContractError", "FileNotFoundError", "PermissionError"):
        return Exit.INPUT
    if kinds and kinds[0] in ("OSError", "ConnectionError", "TimeoutError", "BlockingIOError"):
        return Exit.RETRY
    return Exit.UNEXPECTED


@contextmanager
def stop_on_sigterm() -> Iterator[None]:
    """Raise Stopped in the main thread at the first SIGTERM; later ones do not disturb the clean-up.

    Does nothing in other threads, which get no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Stopped("SIGTERM")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
