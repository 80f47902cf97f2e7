"""Plans of the stages that write tables: up to date if the newest commits were made from the same inputs."""

from collections.abc import Callable

from jobs.shell.command import Outcome, Plan
from pipelines.pin import Pin, pin


def planned(made_from: str, outputs: list[str], *, appended: bool = False) -> Plan:
    """Compare the fingerprint with the outputs'. `appended`: any commit may carry it, not just the newest.

    Raises ValueError if somebody else changed an output last: rebuilding would undo their change.
    """
    for path in outputs:
        name = path.rstrip("/").rpartition("/")[2]
        found = pin(path, made_from=made_from) if appended else pin(path)
        if found is None:
            newest = pin(path)
            missing = (
                "no table yet"
                if newest is None
                else "no rows from these inputs yet"
                if newest.fingerprint
                else (
                    f"changed outside of Distributary (version {newest.version}, {newest.facts['operation']}); adds what is missing"
                )
            )
            return Plan(fingerprint=made_from, up_to_date=False, why=f"{name}: {missing}")
        if not found.fingerprint:
            raise ValueError(
                f"{path} was changed outside of Distributary (version {found.version}, {found.facts['operation']}); "
                "running this stage would undo that. To rebuild it, delete the table; to keep it, run only the "
                "stages below"
            )
        if found.fingerprint != made_from:
            why = f"{name}: files, configuration or inputs changed since version {found.version}"
            return Plan(fingerprint=made_from, up_to_date=False, why=why)
        why = f"{name} version {found.version} was made from the same inputs"
    return Plan(fingerprint=made_from, up_to_date=True, why=why)


def unchanged(stage: str, plan: Plan, output: str, told: Callable[[Pin], dict[str, str]]) -> Outcome:
    """The outcome of a stage that has nothing to do, with the facts its table keeps."""
    kept = pin(output, made_from=plan.fingerprint)
    return Outcome(stage=stage, ran=False, why=plan.why, facts=told(kept) if kept else {})


def required(path: str, table: str, stage: str) -> Pin:
    """The newest rows at `path`. Raises FileNotFoundError naming the stage that writes them."""
    found = pin(path)
    if found is None:
        raise FileNotFoundError(f"no {table} table at {path}; run first: distributary {stage}")
    return found


def required_as_written(path: str, table: str, stage: str) -> Pin:
    """As `required`; raises ValueError if somebody else changed the rows, so that what was written about them does not hold."""
    found = required(path, table, stage)
    if not found.fingerprint:
        raise ValueError(
            f"{path} was changed outside of Distributary (version {found.version}, {found.facts['operation']}), and "
            f"this stage needs {table} as they were written; delete the table and run: distributary {stage}"
        )
    return found
