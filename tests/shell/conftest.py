"""What several files of tests need of the command line."""

from jobs.run import STAGES
from jobs.shell.settings import load


def check_all(**layers):
    """The sections of all jobs by name, checked."""
    return load(**layers).sections({name: stage.Config for name, stage in STAGES.items()})
