"""Plans and outcomes: what a stage would do, and what it did.

A table is up to date if its newest commit was made from the same inputs. A plan reads the logs of tables and
starts no JVM.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from pipelines.pin import Pin

_Inputs = TypeVar("_Inputs")
NO_INPUTS: Any = None
"""For a stage that reads no table."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan(Generic[_Inputs]):
    """What a stage would do now."""

    fingerprint: str
    """What the output will have been made from."""
    up_to_date: bool
    why: str
    inputs: _Inputs = NO_INPUTS
    """The versions that the fingerprint names; the stage works on these, not on newer ones."""
    facts: dict[str, str] = field(default_factory=dict)
    """If up to date: what a person wants to know of the output, in the order of display."""
    notes: dict[str, str] = field(default_factory=dict)
    """What a person wants to know before the stage runs, in the order of display."""
    forecast: Callable[[], dict[str, str]] = dict
    """If not up to date: more notes, which take seconds. Only a dry run asks for them."""
    outputs: tuple[str, ...] = ()
    """Tables that the stage writes."""
    needs_spark: bool = True
    """If not up to date: whether the work needs Spark."""


def look_ahead(plan: Plan[_Inputs]) -> Plan[_Inputs]:
    """The plan with its forecast among the notes."""
    return plan if plan.up_to_date else replace(plan, notes={**plan.notes, **plan.forecast()})


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a stage did."""

    stage: str
    ran: bool
    """False = the output was up to date."""
    why: str
    facts: dict[str, str] = field(default_factory=dict)
    """What a person wants to know of the output, in the order of display."""
    fingerprint: str = ""
    """What the output is made from."""
    outputs: tuple[str, ...] = ()
    """Tables that the stage writes."""


def plan_tables(
    made_from: str,
    outputs: Sequence[str],
    display_facts: "Callable[[Pin], dict[str, str]]",
    *,
    inputs: _Inputs = NO_INPUTS,
    appended: bool = False,
    find_gap: "Callable[[Pin], str]" = lambda pin: "",
) -> Plan[_Inputs]:
    """Up to date if the newest commit of every output carries the fingerprint `made_from`.

    If rows are `appended`, any commit may carry it. `display_facts` and `find_gap` get the commit of the last
    output; `find_gap` returns what is missing beside the table, or "".
    Raises ValueError if another program changed an output last, because a rebuild would undo that change.
    """
    from pipelines.pin import pin  # loads Arrow and delta-rs, which no --help needs

    pins = [pin(path, made_from=made_from) if appended else pin(path) for path in outputs]
    for path, found in zip(outputs, pins, strict=True):
        require_own_rows(path, found)
    for path, found in zip(outputs, pins, strict=True):
        if found is None or found.fingerprint != made_from:
            why = f"{_name_of(path)}: {_explain_outdated(found or pin(path), appended=appended)}"
            return Plan(
                fingerprint=made_from, up_to_date=False, why=why, inputs=inputs, outputs=tuple(outputs)
            )
    last = pins[-1]
    assert last is not None, "the loop returns for a missing table"
    why = f"{_name_of(outputs[-1])} version {last.version} was made from the same inputs"
    if gap := find_gap(last):
        return Plan(fingerprint=made_from, up_to_date=False, why=gap, inputs=inputs, outputs=tuple(outputs))
    return Plan(
        fingerprint=made_from,
        up_to_date=True,
        why=why,
        inputs=inputs,
        facts=display_facts(last),
        outputs=tuple(outputs),
    )


def require_own_rows(path: str, found: "Pin | None") -> None:
    """Raises ValueError if the newest rows of a table, which a stage writes, are of another program."""
    if found is not None and not found.fingerprint:
        raise ValueError(
            f"{path} was changed outside of Distributary ({_describe_change(found)}); running this stage "
            "would undo that. To rebuild it, delete the table; to keep it, run only the stages below"
        )


def require_table(path: str, table: str, stage: str) -> "Pin":
    """The newest rows at `path`. Raises FileNotFoundError with the name of the stage that writes them."""
    from pipelines.pin import pin

    found = pin(path)
    if found is None:
        raise FileNotFoundError(f"no {table} table at {path}; run first: distributary {stage}")
    return found


def require_unmodified_table(path: str, table: str, stage: str) -> "Pin":
    """As `require_table`, for a stage that needs the facts written with the rows.

    Raises ValueError if another program changed the rows.
    """
    found = require_table(path, table, stage)
    if not found.fingerprint:
        raise ValueError(
            f"{path} was changed outside of Distributary ({_describe_change(found)}), but this stage needs "
            f"{table} as they were written; delete the table and run: distributary {stage}"
        )
    return found


def _explain_outdated(newest: "Pin | None", *, appended: bool) -> str:
    """Why the stage would write; `newest` is the last commit that changed rows."""
    if newest is None:
        return "no table yet"
    if not newest.fingerprint:
        return f"changed outside of Distributary ({_describe_change(newest)}); adds what is missing"
    if appended:
        return "no rows from these inputs yet"
    return f"files, configuration or inputs changed since version {newest.version}"


def _describe_change(foreign: "Pin") -> str:
    """The commit of another program, in words."""
    return f"version {foreign.version}, {foreign.facts['operation']}"


def _name_of(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]
