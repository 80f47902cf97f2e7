"""`distributary doctor`: what is wrong with this machine or installation, and the command that fixes it."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from jobs.shell.checks import (
    CHECKOUT,
    REINSTALL,
    Check,
    check_cache,
    check_disk,
    check_horovod,
    check_jars,
    check_java,
    check_packages,
    check_python,
    run_python,
)
from jobs.shell.loading import show_loading
from jobs.shell.redaction import redact

if TYPE_CHECKING:
    from jobs.shell.settings import Settings

LOAD_ALL = (
    f"import sys; sys.path.append({str(CHECKOUT)!r}); "
    "from jobs.shell.loading import load_everything; load_everything()"
)


def check_imports() -> Check:
    """All modules that the stages import can be loaded, in a new Python."""
    wanted, problem = "every stage loads", run_python(LOAD_ALL)
    if problem:
        return Check(name="imports", status="fail", found=problem, wanted=wanted, fix=REINSTALL)
    return Check(name="imports", status="ok", found=wanted, wanted=wanted)


CHECKS: tuple[Callable[[], Check], ...] = (
    check_python,
    check_java,
    check_packages,
    check_imports,
    check_jars,
    check_horovod,
    check_disk,
    check_cache,
)
"""They need no configuration."""


def examine(load: Callable[[], "Settings"] | None = None) -> Iterator[Check]:
    """Run all checks in order; `load` gives the configuration whose slots, MLflow store and storage are
    tried, None = the default one.

    A check that raises becomes a finding itself.
    """
    for check in CHECKS:
        try:
            yield check()
        except (Exception, SystemExit) as error:  # a broken library may raise anything
            yield _describe_failure(check.__name__.removeprefix("check_").replace("_", " "), error)
    try:
        settings = (load or _load_default)()
    except (Exception, SystemExit) as error:
        yield _describe_failure("configuration", error)
        return
    from jobs.shell.settings_checks import check_slots, check_spark_settings, check_tracking
    from jobs.shell.storage_checks import check_storage

    for name, configured in (
        ("spark slots", lambda: [check_slots(settings)]),
        ("spark settings", lambda: [check_spark_settings(settings)]),
        ("mlflow store", lambda: [check_tracking(settings)]),
        ("storage", lambda: check_storage(settings)),
    ):
        try:
            yield from configured()
        except (Exception, SystemExit) as error:
            yield _describe_failure(name, error)


def _describe_failure(name: str, error: BaseException) -> Check:
    # ValueError: a key of the configuration. Other errors come from libraries that do not load.
    fix = "correct the configuration" if isinstance(error, ValueError) else "make setup"
    found = f"the check failed: {type(error).__name__}: {error}"
    return Check(name=name, status="fail", found=found, wanted="a result", fix=fix)


def _without_secrets(check: Check) -> Check:
    return replace(check, found=redact(check.found), fix=redact(check.fix))


def _load_default() -> "Settings":
    from jobs.shell.settings import load

    return load()


def doctor(as_json: bool, load: Callable[[], "Settings"] | None = None) -> int:
    """Print all findings, as a table or as JSON. Exit status: 1 if a check failed, else 0."""
    with show_loading("all libraries as a test"):
        findings = [_without_secrets(check) for check in examine(load)]
    failed = any(check.status == "fail" for check in findings)
    if as_json:
        answer = {"ok": not failed, "checks": [asdict(check) for check in findings]}
        print(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        _print_table(findings)
    return int(failed)


def _print_table(findings: list[Check]) -> None:
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except Exception:  # rich is missing or broken
        for check in findings:
            fix = f"; fix: {check.fix}" if check.fix else ""
            print(f"{check.name:14} {check.status:5} {check.found}{fix}")
        return

    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    table = Table(box=None, pad_edge=False)
    for heading in ("check", "", "found", "fix"):
        table.add_column(heading, overflow="fold")
    for check in findings:
        found = check.found if check.status == "ok" else f"{check.found} (wanted: {check.wanted})"
        table.add_row(
            check.name, Text(check.status, style=colours[check.status]), Text(found), Text(check.fix)
        )
    Console().print(table)


if __name__ == "__main__":  # works without the packages of the command line
    sys.exit(doctor("--json" in sys.argv[1:]))
