"""The alias `champion`: which version has it, promotion, and its undo. A call that was killed can be
repeated.

`challenger` is the newest registered version, `champion` the one that people use. Names of a version's tags
have no dots, because Unity Catalog refuses them.
"""

from datetime import UTC, datetime

from mlflow import MlflowClient

from pipelines.registry.versions.find import find_version, read_aliases

CHALLENGER, CHAMPION = "challenger", "champion"
PREVIOUS_TAG = "distributary_previous_champion"
"""Tag of a champion: the version that was champion before it; empty = none."""
WITHDRAWN_TAG = "distributary_withdrawn"
"""Tag of a version: date on which `undo_promotion` took the alias `champion` from it."""


def find_champion(name: str) -> int | None:
    """The present champion; None if there is none."""
    return read_aliases(name).get(CHAMPION)


def find_rival(name: str, version: int) -> int | None:
    """The champion that `version` must beat, or had to beat if it is champion itself; None if there was
    none."""
    champion = find_champion(name)
    if champion != version:
        return champion
    previous = find_version(name, version).tags.get(PREVIOUS_TAG, "")
    return int(previous) if previous else None


def promote(name: str, version: int) -> int | None:
    """Make `version` the champion. Returns the champion before it, or None. Does nothing if it is champion
    already.

    A person can also use this to bring back a version that `undo_promotion` withdrew, or set the alias in
    MLflow.
    """
    client = MlflowClient()
    chosen = find_version(name, version)
    before = find_champion(name)
    if before == version:
        return before
    # The tag is written first: after a kill between the two calls, the next call writes the same value again.
    client.set_model_version_tag(name, str(version), PREVIOUS_TAG, "" if before is None else str(before))
    # If a withdrawn version is champion again, a person promoted it: clear the mark of the withdrawal.
    champions = [chosen] if before is None else [chosen, client.get_model_version(name, str(before))]
    for champion in champions:
        if WITHDRAWN_TAG in champion.tags:
            client.delete_model_version_tag(name, champion.version, WITHDRAWN_TAG)
    client.set_registered_model_alias(name, CHAMPION, str(version))
    return before


def undo_promotion(name: str) -> int:
    """Give the alias `champion` back to the version that had it before, and return that version.

    The other version is withdrawn: the gate does not promote it again, but a person can, with `promote` or in
    MLflow. Raises LookupError if there is no champion, or none before it.
    """
    client = MlflowClient()
    champion = find_version(name, CHAMPION)
    previous = champion.tags.get(PREVIOUS_TAG, "")
    if not previous:
        raise LookupError(
            f"{name}: version {champion.version} is the first champion, so there is none to go back to; "
            "promote another version"
        )
    client.set_model_version_tag(name, champion.version, WITHDRAWN_TAG, datetime.now(UTC).date().isoformat())
    client.set_registered_model_alias(name, CHAMPION, previous)
    return int(previous)


def find_withdrawal(name: str, version: int) -> str:
    """Date on which `version` was withdrawn (YYYY-MM-DD, UTC); empty if it was not, or if it is champion
    again."""
    if find_champion(name) == version:
        return ""
    return str(find_version(name, version).tags.get(WITHDRAWN_TAG, ""))
