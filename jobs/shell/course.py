"""All stages one after another, or their plans."""

from collections.abc import Mapping
from contextlib import ExitStack
from types import ModuleType

from jobs.shell.display import console, display_locations, display_outcome, display_plan, display_summary
from jobs.shell.plan import look_ahead
from jobs.shell.preflight import Preflight
from jobs.shell.progress import show_progress
from jobs.shell.record import Record
from jobs.shell.settings import Section, Settings


def run_stages(
    stages: Mapping[str, ModuleType], configs: Mapping[str, Section], settings: Settings, record: Record
) -> None:
    """Run every stage whose output is not up to date. While one has work to do, no other run may start."""
    outcomes = []
    with ExitStack() as stack:
        check = Preflight(configs, settings.root, stack)
        for name, stage in stages.items():
            with record.stage(name):
                outcome = stage.main(configs[name], check)
            record.add_outcome(outcome, configs[name])
            display_outcome(outcome)
            outcomes.append(outcome)
    display_summary(outcomes)
    display_locations(settings)


def display_plans(stages: Mapping[str, ModuleType], configs: Mapping[str, Section], record: Record) -> None:
    """What each stage would do. Below the first stage that would run, nothing can be known yet."""
    for number, (name, stage) in enumerate(stages.items()):
        with record.stage(name), show_progress(name):
            planned = look_ahead(stage.plan(configs[name]))
        record.add_plan(name, planned)
        display_plan(name, planned)
        if not planned.up_to_date:
            for below in list(stages)[number + 1 :]:
                console.print(f"{below}: would run: its input will be written again", markup=False)
            return
