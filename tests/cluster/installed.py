"""What is installed on a host. All hosts see the machine's files; these functions change one host's view.

They mount inside the host's own mount namespace: the machine and the other hosts see no change.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.hosts import DISK, Host


def provide(host: Host, folder: Path, name: str) -> Path:
    """Make a folder of the machine visible to every user of the host as DISK/opt/name."""
    (host.behind / "opt" / name).mkdir(parents=True)
    target = DISK / "opt" / name
    host.run("mount", "--bind", str(folder), str(target))
    return target


def hide(host: Host, folder: Path) -> None:
    """Make a folder of the machine empty on the host, as if nothing were installed there."""
    host.run("mount", "-t", "tmpfs", "tmpfs", str(folder))


@contextmanager
def uninstalled(host: Host, package: str, site_packages: Path) -> Iterator[None]:
    """A Python package is gone from the host's copy of `site_packages` while the context lasts.

    The copy is an overlay in memory, so nothing is copied.
    """
    (host.behind / "changes").mkdir(exist_ok=True)
    changes, folder = DISK / "changes", str(site_packages)
    host.run("mount", "-t", "tmpfs", "tmpfs", str(changes))
    host.run("mkdir", f"{changes}/upper", f"{changes}/work")
    options = f"lowerdir={folder},upperdir={changes}/upper,workdir={changes}/work"
    host.run("mount", "-t", "overlay", "overlay", "-o", options, folder)
    try:
        host.run("sh", "-ec", f"rm -r {folder}/{package} {folder}/{package}-*.dist-info")
        yield
    finally:
        # Lazy: an executor of the last application may still end.
        host.run("umount", "--lazy", folder)
        host.run("umount", "--lazy", str(changes))
