"""Pack what executors need into one archive for `spark-submit --archives`. `make pack` runs it.

The archive holds a Python interpreter, the packages with Horovod's wheel, distributary itself and Delta's
jars. It works wherever it is unpacked, on machines without Python. Run it with the environment's Python.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import sysconfig
import tempfile
import time
from importlib.metadata import Distribution, version
from pathlib import Path
from typing import Dict, List, NamedTuple, Set, Tuple

from jobs.shell.requirements import find_distributions, find_needed, find_unmet
from pipelines.machine import cache_folder, canonical_name, file_sha256
from tools import pack_items
from tools.pack_archive import Archive, compile_all, find_floors
from tools.pack_items import Item
from tools.progress import SetupError, handle_signals, say

CHECKOUT = Path(__file__).absolute().parent.parent
EXTRAS = ("local", "horovod")
"""Extras of setup.cfg whose packages executors need."""


class Choices(NamedTuple):
    """What a user can choose."""

    extras: Tuple[str, ...] = EXTRAS
    jars: Tuple[str, ...] = ("delta",)
    without: Tuple[str, ...] = ()
    """Packages that are left out, such as torch for a cluster that only prepares data."""
    with_gpu: bool = True
    with_spark: bool = False


class Content(NamedTuple):
    """What goes into a pack."""

    items: List[Item]
    folders: Dict[str, str]
    """Folder of this machine, or how its name ends -> folder inside the pack, for the search paths of
    libraries."""
    packages: Dict[str, str]
    """Package -> version."""


def collect(choices: Choices) -> Content:
    """The files of the pack, sorted by name. Raises SetupError if something is missing."""
    base = pack_items.find_base()
    log = cache_folder() / "logs" / "pack-wheel.log"
    product = list(pack_items.list_product(CHECKOUT, base.packages, log=log))
    metadata = next(item.content for item in product if item.name.endswith(".dist-info/METADATA"))
    installed = find_distributions()
    problems: Dict[str, str] = {}
    names: Set[str] = set()
    with tempfile.TemporaryDirectory() as scratch:
        # What the wheel asks for: an editable installation remembers the requirements of an older setup.cfg.
        (Path(scratch) / "METADATA").write_bytes(metadata)
        installed["distributary"] = Distribution.at(scratch)
        for extra in ("", *choices.extras):
            names |= find_needed(installed, extra=extra, without=choices.without)
            problems |= find_unmet(installed, extra=extra)
    if problems:
        raise SetupError("; ".join(problems.values()) + "; fix: make setup")
    items = list(pack_items.list_interpreter(base))
    owners: Dict[str, str] = {}
    for package in sorted(names):
        for item in pack_items.list_package(installed[package], base.packages):
            owners[item.name] = package
            items.append(item)
    items += product
    for group in choices.jars:
        items += pack_items.list_jars(group)
    items = pack_items.leave_out(items, with_spark=choices.with_spark)
    if not choices.with_gpu:
        items = pack_items.leave_out_gpu(items, owners)
    unique = {item.name: item for item in items}
    folders = {"site-packages": base.packages, str(base.prefix / "lib"): "lib"}
    return Content(
        [unique[name] for name in sorted(unique)], folders, {name: installed[name].version for name in names}
    )


def describe(content: Content, archive: Archive) -> bytes:
    """PACK.json: versions, platform, the oldest system that it runs on, how Horovod was built, the jars."""
    jars = [item for item in content.items if item.name.startswith("share/distributary/jars/")]
    facts = {
        "distributary": version("distributary"),
        "python": platform.python_version(),
        "platform": sysconfig.get_platform(),
        "needs_from_the_system": find_floors(archive.versions),
        "horovod": read_horovod_record(content),
        "packages": dict(sorted(content.packages.items())),
        "jars": {Path(jar.name).name: file_sha256(jar.source) for jar in jars if jar.source},
    }
    return (json.dumps(facts, indent=2) + "\n").encode()


def read_horovod_record(content: Content) -> Dict[str, str]:
    """What Horovod was built for, as its wheel records it: {"pytorch": "2.13.0+cu130", ...}; empty if it is
    left out."""
    for item in content.items:
        if item.name.endswith("/horovod/metadata.json") and item.source is not None:
            return dict(json.loads(item.source.read_text(encoding="utf-8")))
    return {}


def write_pack(content: Content, target: Path) -> str:
    """Write the archive beside its place and rename it when it is complete. Returns its sha256.

    The file NAME.sha256 beside it can be checked with sha256sum -c.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    started_at = time.monotonic()
    say("compiling  bytecode")
    bytecode = compile_all(content.items)
    say(f"compiled   {len(bytecode)} modules ({time.monotonic() - started_at:.1f} s)")
    items = sorted([*content.items, *bytecode], key=lambda item: item.name)
    part = target.with_name(f"{target.name}.{os.getpid()}.part")  # two packs at a time have two files
    archive = Archive(part, content.folders, sum(map(num_bytes, items)))
    try:
        for item in items:
            archive.add(item)
        archive.add(Item("PACK.json", None, describe(content, archive)))
        written = archive.close()
    except BaseException:
        archive.abandon()
        part.unlink()
        raise
    part.replace(target)
    checksum = target.with_name(target.name + ".sha256")
    checksum.write_text(f"{written.sha256}  {target.name}\n", encoding="ascii")
    seconds = time.monotonic() - started_at
    say(f"packed     {written.num_files} files, {written.num_bytes / 1e9:.2f} GB ({seconds:.1f} s)")
    return written.sha256


def num_bytes(item: Item) -> int:
    """Size of a file of the pack before compression."""
    return len(item.content) if item.source is None else item.source.stat().st_size


def display_sizes(content: Content) -> None:
    """The largest parts of the pack, before compression and without bytecode."""
    sizes: Dict[str, int] = {}
    for item in content.items:
        parts = item.name.split("/")
        inside = parts[3] if parts[2:3] in (["site-packages"], ["dist-packages"]) else "/".join(parts[:2])
        sizes[inside] = sizes.get(inside, 0) + num_bytes(item)
    for name, size in sorted(sizes.items(), key=lambda pair: -pair[1])[:15]:
        say(f"{size / 1e6:8.0f} MB  {name}")
    say(f"{sum(sizes.values()) / 1e6:8.0f} MB  in {len(content.items)} files and {len(sizes)} parts")


def pack_name(choices: Choices) -> str:
    """distributary-0.1.0-cp311-linux-x86_64-cpu: what a person must know to choose a pack."""
    python = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    system = f"{platform.system().lower()}-{platform.machine()}"
    marks = [
        *([] if choices.with_gpu else ["cpu"]),
        *(["spark"] if choices.with_spark else []),
        *(["s3"] if "s3" in choices.jars else []),
        *(f"no_{package}" for package in choices.without),
    ]
    return "-".join(["distributary", version("distributary"), python, system, *marks])


def read_choices(options: argparse.Namespace) -> Choices:
    """What the command line asks for."""
    without = sorted(map(canonical_name, options.without))
    extras = [canonical_name(extra) for extra in (*EXTRAS, *options.extra)]
    return Choices(
        extras=tuple(extra for extra in extras if extra not in without),
        jars=("delta", "s3") if options.with_s3 else ("delta",),
        without=tuple(without),
        with_gpu=not options.cpu,
        with_spark=options.with_spark,
    )


def main(arguments: List[str]) -> int:
    """Exit status: 0 = done, 1 = cannot continue (the reason was printed), 130 = interrupted."""
    parser = argparse.ArgumentParser(
        prog="make pack", description="Pack what executors need into one archive for spark-submit --archives."
    )
    parser.add_argument("--cpu", action="store_true", help="leave out what only GPUs use")
    parser.add_argument("--with-spark", action="store_true", help="add Spark's jars: the pack is complete")
    parser.add_argument("--with-s3", action="store_true", help="add the jars of Hadoop's s3a (690 MB)")
    parser.add_argument("--extra", action="append", default=[], help="an extra of setup.cfg, such as demo")
    parser.add_argument(
        "--without", action="append", default=[], help="a package to leave out with all that only it needs"
    )
    parser.add_argument("--output", type=Path, default=Path("dist"), help="folder for the archive")
    parser.add_argument("--dry-run", action="store_true", help="list the largest parts; write nothing")
    options = parser.parse_args(arguments)
    handle_signals()
    choices = read_choices(options)
    target = options.output / f"{pack_name(choices)}.tar.gz"
    try:
        content = collect(choices)
        if options.dry_run:
            display_sizes(content)
            say(f"would write {target}")
            return 0
        sha256 = write_pack(content, target)
    except (SetupError, OSError) as error:
        print(f"pack stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; nothing was kept", file=sys.stderr)
        return 130
    say(f"sha256     {sha256}")
    say(f"use it     spark-submit --archives {target}#environment ...   (put it on shared storage first)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
