"""What a stage left behind, as plain values for a machine: table versions, run, model version."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from jobs.shell.plan import Outcome
from jobs.shell.settings import Section

if TYPE_CHECKING:
    from pipelines.pin import Pin


def describe_results(outcome: Outcome, config: Section) -> dict[str, Any]:
    """The keys `tables`, `run_id` and `model` of a stage that ended well, each if it has one.

    Reads logs and the registry again. An error there does not make the stage fail: it stands under
    `incomplete`.
    """
    try:
        return _TABLES_AND_MORE.get(outcome.stage, _describe_tables)(outcome, config)
    except Exception as error:
        return {"incomplete": f"{type(error).__name__}: {error}"}


def _describe_tables(outcome: Outcome, config: Any) -> dict[str, Any]:
    from pipelines.pin import pin

    pins = [pin(path) for path in outcome.outputs]
    return {"tables": [_describe_pin(found) for found in pins if found is not None]}


def _describe_run(outcome: Outcome, config: Any) -> dict[str, Any]:
    from pipelines.registry.runs.current import read_current

    current = read_current(config.folder)
    return {} if current is None else {"run_id": current.run_id}


def _describe_model(outcome: Outcome, config: Any) -> dict[str, Any]:
    from pipelines.registry.lookup import Lookup
    from pipelines.registry.runs.current import read_current

    current = read_current(config.trainings)
    if current is None:
        return {}
    lookup = Lookup(config.tracking.uri, config.tracking.artifacts)
    verdict = lookup.find_verdict(config.name, current.run_id, made_from=outcome.fingerprint)
    if verdict is None:
        return {"run_id": current.run_id}
    return {
        "run_id": current.run_id,
        "model": {"name": config.name, "version": verdict.model_version, "verdict": verdict.reason},
    }


def _describe_predictions(outcome: Outcome, config: Any) -> dict[str, Any]:
    from pipelines.pin import pin

    found = pin(config.predictions, made_from=outcome.fingerprint)
    if found is None:
        return {}
    name, _, version = found.facts["model"].rpartition(" ")
    model = {"name": name, "version": int(version)}
    return {"tables": [_describe_pin(found)], "run_id": found.facts["run"], "model": model}


def _describe_pin(pin: "Pin") -> dict[str, Any]:
    wanted = ("table", "path", "table_id", "version", "digest", "num_rows")
    return {name: value for name, value in asdict(pin).items() if name in wanted}


_TABLES_AND_MORE = {"finetune": _describe_run, "registry": _describe_model, "scoring": _describe_predictions}
