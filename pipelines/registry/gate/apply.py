"""Verdicts of the gate, carried out and kept: with the run (verdict.json) and as tags of the model version."""

from dataclasses import replace

from pipelines.registry.versions import register as models

# isort: split
from mlflow import MlflowClient

from pipelines.registry.gate.decide import Verdict
from pipelines.registry.versions.find import versions_of

GATE_TAG, REASON_TAG = "distributary_gate", "distributary_verdict"
MAX_REASON_CHARS = 1000
"""Unity Catalog's limit on the value of a tag; verdict.json has it whole."""


def judged(name: str, run_id: str, *, made_from: str) -> tuple[int, str] | None:
    """(version, reason) that the gate gave a model of this run for these inputs; None if it has not."""
    return next(
        (
            (int(each.version), each.tags.get(REASON_TAG, ""))
            for each in versions_of(name, run_id)
            if each.tags.get(GATE_TAG) == made_from
        ),
        None,
    )


def last_judgement(name: str) -> str:
    """What the gate judged last of the model `name`, as a fingerprint; empty if it judged nothing yet."""
    return str(MlflowClient().get_registered_model(name).tags.get(GATE_TAG, ""))


def carry_out(verdict: Verdict, run_id: str, name: str, *, made_from: str) -> Verdict:
    """Keep the verdict with the run, promote the challenger if it says so, note that the gate is done for these inputs.

    The verdict as it was kept: a version that `undo` withdrew is not promoted. Raises RuntimeError if the champion is no longer
    the version that was measured.
    """
    version, client = verdict.challenger.model_version, MlflowClient()
    measured = None if verdict.champion is None else verdict.champion.model_version
    champion = models.champion_of(name)
    if champion not in (measured, version):
        raise RuntimeError(
            f"{name} version {version} was judged against {_named(measured)}, but champion is {_named(champion)} "
            "now; run again: distributary registry"
        )
    date = models.withdrawn(name, version)
    if verdict.promote and date:
        verdict = replace(
            verdict,
            promote=False,
            reason=f"{verdict.reason}; withdrawn by undo on {date}: it is champion again "
            "only if a person gives it the alias in MLflow",
        )
    client.log_dict(run_id, verdict.to_dict(), "verdict.json")
    if verdict.promote:
        models.promote(name, version)
    client.set_registered_model_tag(name, GATE_TAG, made_from)
    # Last and in this order: the second tag says that all is done.
    client.set_model_version_tag(name, str(version), REASON_TAG, verdict.reason[:MAX_REASON_CHARS])
    client.set_model_version_tag(name, str(version), GATE_TAG, made_from)
    return verdict


def _named(version: int | None) -> str:
    return "no version" if version is None else f"version {version}"
