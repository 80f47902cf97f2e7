"""What all benchmarks share: the machine, the failure, the file with the result."""

import json
import os
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from jobs.shell.display import console


def run_benchmark(measure: Callable[[], dict[str, Any]], output: Path, **facts: Any) -> None:
    """Write what `measure` returns to `output` as JSON, with the machine and `facts`.

    Ends the process with status 2 if `measure` raises.
    """
    machine = describe_machine()
    try:
        result = measure()
    except Exception as error:
        console.print(f"failed: {type(error).__name__}: {error}", markup=False)
        raise typer.Exit(2) from error
    write_json(output, {**machine, **facts, "load_after": os.getloadavg(), **result})


def describe_machine() -> dict[str, Any]:
    """When and where something was measured."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpus": os.cpu_count(),
        "load_before": os.getloadavg(),
        "python": platform.python_version(),
    }


def write_json(output: Path, content: dict[str, Any]) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    console.print(f"written {output}", markup=False)
