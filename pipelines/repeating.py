"""Questions to HDFS that are asked again while its servers restart.

hdfs-native (ours, and the one inside delta-rs) waits for a name node at most, and for no data node: a read
fails at once when all data nodes of a block are away, and so does a file that is being written. Whoever asks
repeats the whole question instead, for `storage.patience_seconds`. Reading twice does no harm. Writing twice
does none if the file belongs to the writer alone, or if the write is on a condition, and its outcome is
looked up before the next attempt (`commit`).

The clients of other stores wait by themselves.
"""

import logging
import re
import time
from collections.abc import Callable
from typing import TypeVar

from pipelines.paths import split_scheme
from pipelines.stores import current

logger = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")
PAUSE_SECONDS = 1.0
"""Between two attempts."""
_RESTARTING = re.compile(
    # The name node waits for its data nodes, or for its own second half.
    "SafeModeException|RetriableException|StandbyException|could only be written to|"
    # A data node does not answer, or broke off.
    "All (DataN|n)odes failed|(connect(ing)?|send .*|ack|operation .*) (to|from|for) DataNode|"
    "[Dd]ata[Nn]ode connection closed|Failed to add a (datanode|replacement)|No new datanode|"
    "DataTransferError|[Bb]lock writer|Pipeline stopped|Failed to replay packets|Failed to complete file|"
    # The connection to either of them.
    "RPC listener disconnected|Broken pipe|Connection (refused|reset|aborted|closed|timed out)|"
    "early eof|unexpected end of file"
)


def is_restarting(error: BaseException) -> bool:
    """Whether a server of HDFS is away or has just started, as far as the error tells."""
    return isinstance(error, Exception) and _RESTARTING.search(str(error)) is not None


def repeat(ask: Callable[[], _Answer], patience_seconds: float) -> _Answer:
    """The answer of `ask`. While servers of HDFS restart, it is called again, until it answers or
    `patience_seconds` have passed; then its error is raised. Other errors are raised at once."""
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            return ask()
        except Exception as error:
            if not is_restarting(error) or time.monotonic() > deadline:
                raise
            logger.debug("HDFS is asked again: %s", error)
            time.sleep(PAUSE_SECONDS)


def repeat_on_hdfs(path: str, ask: Callable[[], _Answer]) -> _Answer:
    """The answer of `ask` about a path, as `repeat` gives it with the patience of this process; on other
    stores than HDFS, `ask` is called once."""
    if split_scheme(path)[0] != "hdfs":
        return ask()
    return repeat(ask, current().patience_seconds)
