"""Verdicts of the gate, kept with the run (verdict.json) and as a tag of the model version."""

from pipelines.registry import store  # noqa: F401  (before mlflow: switches its noise off)

# isort: split
from mlflow import MlflowClient

from pipelines.registry.gate import Verdict

GATE_TAG, REASON_TAG = "distributary.gate", "distributary.verdict"


def write_verdict(run_id: str, verdict: Verdict) -> None:
    """Keep the whole verdict with the run, before anything is promoted."""
    MlflowClient().log_dict(run_id, verdict.to_dict(), "verdict.json")


def mark_judged(name: str, version: int, *, made_from: str, reason: str) -> None:
    """Note that the gate is done with `version`, for these inputs."""
    client = MlflowClient()
    client.set_model_version_tag(name, str(version), REASON_TAG, reason)
    client.set_model_version_tag(name, str(version), GATE_TAG, made_from)


def judged(name: str, *, made_from: str) -> tuple[int, str] | None:
    """(version, reason) that the gate gave for these inputs; None if it has not."""
    found = MlflowClient().search_model_versions(f"name = '{name}'")
    return next(((int(each.version), each.tags.get(REASON_TAG, ""))
                 for each in found if each.tags.get(GATE_TAG) == made_from), None)


def newest_judgement(name: str) -> str:
    """What the gate judged last, as a fingerprint; empty if it never judged a version of `name`."""
    found = MlflowClient().search_model_versions(f"name = '{name}'")
    return max(((int(each.version), each.tags[GATE_TAG]) for each in found if GATE_TAG in each.tags), default=(0, ""))[1]
