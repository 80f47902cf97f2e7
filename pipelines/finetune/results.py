"""What a finished training left in its run folder. No torch: jobs read it to plan."""

import json
from typing import Any

from pipelines.storage import Folder


def read_result(folder: str) -> dict[str, Any] | None:
    """What a finished training wrote in its run folder; None if it is not finished."""
    run = Folder(folder)
    return json.loads(run.read("result.json")) if run.exists("result.json") else None


def read_sample(folder: str) -> str | None:
    """The text that a finished language model wrote; None for models that write none."""
    run = Folder(folder)
    return run.read("sample.txt").decode() if run.exists("sample.txt") else None


def display_result(result: dict[str, Any] | None) -> dict[str, str]:
    """What a person wants to know of a finished training."""
    if result is None:
        return {}
    metric, steps = result["metric"], f"{result['total_steps']:,}"
    planned = result.get("planned_steps", result["total_steps"])  # earlier versions did not write it
    trained, total = result.get("num_trained_parameters"), result.get("num_parameters")
    return {
        f"{metric} before": f"{result['before'][metric]:.4f}",
        f"{metric} after": f"{result['after'][metric]:.4f}",
        "steps": steps if planned == result["total_steps"] else f"{steps} of {planned:,}, stopped early",
        **({} if trained == total else {"trained parameters": f"{trained:,} of {total:,}"}),
        **_display_traffic(result.get("traffic")),
    }


def _display_traffic(traffic: dict[str, int] | None) -> dict[str, str]:
    """What each rank sent; empty for a strategy that exchanges all gradients at every step."""
    if not traffic or not traffic["sent_bytes"]:
        return {}
    sent, synchronous = traffic["sent_bytes"], traffic["synchronous_bytes"]
    share = f"1/{synchronous / sent:.1f} of data parallel"
    return {"sent by each rank": f"{sent / 1e6:,.1f} MB, {share}"}
