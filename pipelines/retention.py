"""Which files of a table are kept: those of the newest version and of every version that something names.

Tables keep 365 days of files for Spark's own VACUUM, which knows nothing of pins; a table that is rebuilt
every day would keep every rebuild. `delete_unpinned` deletes by pins instead of by age.
"""

from collections.abc import Collection

from deltalake import DeltaTable

from pipelines.paths import is_table_name
from pipelines.pin import open_log
from pipelines.stores import delta_options

MIN_AGE_HOURS = 7 * 24
"""A reader, or a write that is not committed yet, may still need younger files."""


def delete_unpinned(
    path: str, *, keep: Collection[int], min_age_hours: int = MIN_AGE_HOURS, dry_run: bool = False
) -> list[str]:
    """Delete the files of the table at `path` that neither the newest version nor a version in `keep` holds,
    and those that no version ever held, such as the files of a killed write. Returns their paths.

    Files younger than `min_age_hours` stay: those that a version lost, and those that none had. Versions
    that are neither kept nor newest can no longer be read afterwards. The log keeps their digests.

    `keep` must name every version that a run, a model or a later table was made from: `registry` and the
    facts of tables know them. Raises FileNotFoundError if there is no table, ValueError for a version that
    the table never had, or for a table of a catalog, whose files the catalog deletes.
    """
    if is_table_name(path):
        raise ValueError(f"{path} belongs to a catalog; run there: VACUUM {path}")
    log = open_log(path)
    if log is None:
        raise FileNotFoundError(f"no table at {path}")
    unknown = sorted(version for version in keep if not 0 <= version <= log.version)
    if unknown:
        raise ValueError(f"keep names versions {unknown}, but {path} has versions 0 to {log.version}")
    table = DeltaTable(path, storage_options=delta_options(path))
    return list(
        table.vacuum(
            retention_hours=min_age_hours,
            enforce_retention_duration=False,
            full=True,
            keep_versions=sorted(keep),
            dry_run=dry_run,
        )
    )
