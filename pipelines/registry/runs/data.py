"""What a training's run says of its rows: table versions, batches, seed. From params, tags and inputs alone.

Loads MLflow only to read: `Lookup` keeps the answer.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pipelines.paths import is_table_name
from pipelines.registry.runs.current import FOLDER_TAG

PARAMS = {"num_epochs": float, "global_batch": int, "window_batches": int, "seed": int, "num_ranks": int}
MIXTURE, CURRICULUM = "mixture_id", "curriculum."


class RunData(NamedTuple):
    """What a run recorded of the rows that it trains on: with the table, it fixes the rows of every step."""

    run_id: str
    status: str
    """MLflow's: FINISHED, RUNNING, FAILED, ..."""
    folder: str
    """Run folder with the result; may be gone."""
    sequences: dict[str, Any]
    """path, table_id and version."""
    documents: dict[str, Any]
    """The same of the documents that the sequences were made from."""
    num_epochs: float
    global_batch: int
    window_batches: int
    seed: int
    num_ranks: int
    other_num_ranks: str | None
    """Ranks that continued the training, if these were fewer or more; None = it had `num_ranks` all the
    time."""
    mixture: dict[str, Any] | None = None
    """path, table_id and version of the mixtures, and the id of the one of the run; None = it has none."""
    curriculum: dict[str, Any] | None = None
    """Fields of mixing.rules.Curriculum; None = it has none."""


def read_run_data(run_id: str) -> RunData:
    """The rows of the run `run_id`, and their order.

    Raises LookupError if the store has no such run, ValueError if it is not a training of Distributary.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    from pipelines.registry.runs.lineage import read_lineage
    from pipelines.registry.runs.tracker import RESUMED_TAG

    try:
        run = MlflowClient().get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise LookupError(
            f"MLflow has no run '{run_id}'; take the id of a run of the experiment, models:/NAME/VERSION, or "
            "leave --run out for the newest finished training"
        ) from None
    params, tags = run.data.params, run.data.tags
    inputs = {pin["table"]: pin for pin in read_lineage(run_id)["inputs"]}
    missing = [name for name in PARAMS if name not in params]
    missing += [f"input {table}" for table in ("sequences", "documents") if table not in inputs]
    if missing:
        raise ValueError(
            f"run {run_id} does not record {', '.join(missing)}: it is no training of Distributary; name one "
            "with --run, or leave --run out"
        )
    sequences, documents = _pick(inputs["sequences"]), _pick(inputs["documents"])
    if is_table_name(sequences["path"]):
        sequences["path"] = params["sequences"]  # where the catalog keeps the files: no Spark is needed
    return RunData(
        run_id=run_id,
        status=str(run.info.status),
        folder=tags.get(FOLDER_TAG, ""),
        sequences=sequences,
        documents=documents,
        **{name: kind(params[name]) for name, kind in PARAMS.items()},
        other_num_ranks=tags.get(f"{RESUMED_TAG}.num_ranks"),
        mixture=None
        if "mixtures" not in inputs
        else _pick(inputs["mixtures"]) | {"mixture": params[MIXTURE]},
        curriculum=_read_curriculum(params),
    )


def _read_curriculum(params: Mapping[str, str]) -> dict[str, Any] | None:
    given = {
        name.removeprefix(CURRICULUM): value for name, value in params.items() if name.startswith(CURRICULUM)
    }
    if not given:
        return None
    numbers = {name: float(given[name]) for name in ("steps_fraction", "start_fraction", "power")}
    return {"column": given["column"], "descending": given["descending"] == "True", **numbers}


def _pick(pin: dict[str, Any]) -> dict[str, Any]:
    return {name: pin[name] for name in ("path", "table_id", "version")}
