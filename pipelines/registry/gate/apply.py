"""Apply a verdict of the gate, and keep it: as verdict.json in the run, and as tags of the model version."""

from dataclasses import replace

from mlflow import MlflowClient

from pipelines.registry.gate.decide import KeptVerdict, Verdict
from pipelines.registry.versions.aliases import find_champion, find_withdrawal, promote
from pipelines.registry.versions.find import find_versions_of_run

GATE_TAG, REASON_TAG = "distributary_gate", "distributary_verdict"
MAX_REASON_CHARS = 1000
"""Unity Catalog's limit on the value of a tag. verdict.json has the whole reason."""


def find_verdict(name: str, run_id: str, *, made_from: str) -> KeptVerdict | None:
    """The verdict on a model of this run for these inputs (a fingerprint); None if there is none yet."""
    for version in find_versions_of_run(name, run_id):
        if version.tags.get(GATE_TAG) == made_from:
            return KeptVerdict(int(version.version), version.tags.get(REASON_TAG, ""))
    return None


def read_last_verdict(name: str) -> str:
    """Fingerprint of the inputs of the last verdict on any version of `name`; empty if there was none."""
    return str(MlflowClient().get_registered_model(name).tags.get(GATE_TAG, ""))


def apply_verdict(verdict: Verdict, run_id: str, name: str, *, made_from: str) -> Verdict:
    """Keep the verdict in the run, promote the challenger if it says so, and record that these inputs are
    done.

    Returns the verdict as it was kept: a version that `undo_promotion` withdrew is not promoted. Raises
    RuntimeError if the champion is no longer the version that was measured.
    """
    version, client = verdict.challenger.model_version, MlflowClient()
    measured = None if verdict.champion is None else verdict.champion.model_version
    champion = find_champion(name)
    if champion not in (measured, version):
        raise RuntimeError(
            f"{name} version {version} was compared with {_describe(measured)}, but the champion is now "
            f"{_describe(champion)}; run again: distributary registry"
        )
    withdrawn_on = find_withdrawal(name, version)
    if verdict.promote and withdrawn_on:
        reason = (
            f"{verdict.reason}; withdrawn by undo on {withdrawn_on}: it becomes champion again only if "
            "a person gives it the alias in MLflow"
        )
        verdict = replace(verdict, promote=False, reason=reason)
    client.log_dict(run_id, verdict.to_dict(), "verdict.json")
    if verdict.promote:
        promote(name, version)
    client.set_registered_model_tag(name, GATE_TAG, made_from)
    # These come last, in this order: GATE_TAG says that everything is done.
    client.set_model_version_tag(name, str(version), REASON_TAG, verdict.reason[:MAX_REASON_CHARS])
    client.set_model_version_tag(name, str(version), GATE_TAG, made_from)
    return verdict


def _describe(version: int | None) -> str:
    return "no version" if version is None else f"version {version}"
