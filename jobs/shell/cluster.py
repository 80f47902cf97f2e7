"""`distributary doctor --cluster`: start the application that the configuration describes, examine every
executor of it, and print one line for each."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.run import STAGES
from jobs.shell import settings as configuration
from jobs.shell.loading import show_loading
from jobs.shell.redaction import redact
from jobs.shell.storage_checks import make_check
from pipelines.stores import carry, configure

if TYPE_CHECKING:
    from jobs.shell.checks import Check
    from pipelines.executors import ExecutorReport


def examine_cluster(
    *, as_json: bool, recipe: str | None, env: str | None, file: Path | None, overrides: Sequence[str]
) -> int:
    """Print what was found on each executor, as a table or as JSON. Exit status: 1 if there is a problem."""
    settings = configuration.load(recipe=recipe, env=env, file=file, overrides=overrides)
    config = settings.section("finetune", STAGES["finetune"].Config)
    configure(config.storage)
    with show_loading("Spark"):
        from pipelines.executors import check_executors
        from pipelines.spark import require_master, session
        from pipelines.stores_check import check_hadoop, check_store

        if not config.spark.get("spark.master"):
            require_master()
        spark = session("doctor", config.spark)
    with show_loading("torch and Horovod on every executor"):
        storage = partial(carry(check_store), settings.root)
        driver = [*check_store(settings.root), *check_hadoop(spark, settings.root)]
        # If the driver's client does not work, those of the executors wait for minutes, too.
        root = None if any(finding.step for finding in driver) else settings.root
        reports = check_executors(
            spark, deeper=True, storage=storage, root=root, wait_seconds=config.wait_for_slots_seconds
        )
    failed = any(report.problems for report in reports) or any(finding.step for finding in driver)
    if as_json:
        found = {"driver": [asdict(finding) for finding in driver], "executors": [*map(describe, reports)]}
        print(json.dumps(redact({"ok": not failed, **found}), indent=2, ensure_ascii=False))
    else:
        _print_table(reports, [make_check(finding, settings.root) for finding in driver])
    spark.stop()
    return int(failed)


def describe(report: "ExecutorReport") -> dict[str, Any]:
    """One executor, for machines."""
    facts = {key: value for key, value in report.facts.items() if key not in ("executor", "host")}
    return {"executor": report.executor, "host": report.host, "problems": report.problems, **facts}


def display_facts(report: "ExecutorReport") -> str:
    """What was found on one executor, in one line for people; empty if it did not answer."""
    facts = report.facts
    if not facts:
        return ""
    gpus = ", ".join(facts.get("gpus", [])) or "no GPU"
    nccl = f" with NCCL {facts['nccl']}" if facts.get("nccl") else ""
    given = f" (a task gets {', '.join(facts['task_gpus'])})" if facts["task_gpus"] else ""
    free = ", ".join(f"{size / 1e9:.0f} GB in {place}" for place, size in facts["free_bytes"].items())
    parts = [
        f"Python {facts['python']} ({facts['program']})",
        f"torch {facts['torch']}" if "torch" in facts else "torch not imported",
        f"Horovod with {' and '.join(facts['horovod'])}" if "horovod" in facts else "Horovod not imported",
        f"{gpus}{nccl}{given}",
        f"free disk {free}",
        f"memory {facts['memory_bytes'] / 1e9:.1f} GB",
        f"clock {facts['clock_seconds']:+.1f} s",
        f"storage {display_storage(facts)}",
        f"ranks at {facts.get('address', 'no address')} ({facts.get('interface', 'no interface')})",
    ]
    return "; ".join(parts)


def display_storage(facts: dict[str, Any]) -> str:
    """Which clients could use the storage: "works (Arrow and obstore, delta-rs)"."""
    findings = facts.get("storage")
    if findings is None:
        return "not tried"
    failed = [finding["client"] for finding in findings if finding["step"]]
    works = [finding["client"] for finding in findings if not finding["step"]]
    return f"fails ({', '.join(failed)})" if failed else f"works ({', '.join(works)})"


def _print_table(reports: "Sequence[ExecutorReport]", driver: "Sequence[Check]") -> None:
    from rich.table import Table
    from rich.text import Text

    from jobs.shell.display import console

    table = Table(box=None, pad_edge=False)
    for heading in ("host", "executor", "", "found"):
        table.add_column(heading, overflow="fold")
    for check in driver:
        state = Text(check.status, style="red" if check.status == "fail" else "green")
        table.add_row("driver", check.name, state, Text("; ".join(filter(None, [check.found, check.fix]))))
    for report in reports:
        state = Text("fail", style="red") if report.problems else Text("ok", style="green")
        lines = [*(f"problem: {problem}" for problem in report.problems), display_facts(report)]
        table.add_row(report.host, report.executor, state, Text(redact("\n".join(filter(None, lines)))))
    console.print(table)
    num_failed = sum(bool(report.problems) for report in reports)
    console.print(f"{len(reports)} executors, {num_failed} with problems", markup=False)
