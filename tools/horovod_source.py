"""Corrections to Horovod's source before it is compiled. Each one names its finding.

They are replacements of text that must occur exactly once, because the archive is pinned by checksum.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from tools.progress import SetupError


class Correction(NamedTuple):
    """One replacement in one file of the archive."""

    file: str
    after: str
    """The replacement is made in the text that follows this one."""
    old: str
    new: str


CORRECTIONS = (
    # A process set connects its ranks by a device of its own, and 0.28.1 forgets the interface for it. Gloo
    # then listens on the address of the host's name. Debian maps that name to 127.0.1.1, where no other host
    # connects: every training on two hosts ended with "connect [127.0.1.1]: Connection refused".
    Correction(
        file="horovod/common/gloo/gloo_context.cc",
        after="void GlooContext::InitializeForProcessSet(",
        old="device_attr.iface = gloo_iface_;",
        new="gloo_iface_ = global_context.gloo_iface_;\n  device_attr.iface = gloo_iface_;",
    ),
)


def corrections_digest() -> str:
    """Part of the wheel's key: a wheel that was built without a correction is not taken from the cache."""
    return hashlib.sha256(repr(CORRECTIONS).encode()).hexdigest()[:12]


def correct_source(source: Path) -> None:
    """Make the corrections in an unpacked archive. Raises SetupError if the text is not the expected one."""
    for each in CORRECTIONS:
        path = source / each.file
        before, mark, following = path.read_text(encoding="utf-8").partition(each.after)
        num_found = following.count(each.old)
        if num_found != 1:
            raise SetupError(
                f"{path} has {num_found} times {each.old!r} after {each.after!r}, expected once; "
                "look whether this version of Horovod still needs the correction in tools/horovod_source.py"
            )
        path.write_text(before + mark + following.replace(each.old, each.new), encoding="utf-8")
