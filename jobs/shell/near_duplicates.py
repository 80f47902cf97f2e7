"""The keys of stage 1 that concern rules and near duplicates, and what they mean for its plan."""

from typing import Any

from jobs.shell.settings import AbsolutePath, Section, TablePlace
from pipelines.corpus.neardup.presets import NearDuplicates, name_inputs
from pipelines.corpus.rules import Rules


class SearchSection(Section):
    """A section with rules and a search for near duplicates."""

    rules: Rules
    signals: TablePlace
    near_duplicates: NearDuplicates
    duplicates: TablePlace
    signatures: TablePlace
    similarities: TablePlace
    report: AbsolutePath | None

    @property
    def measured(self) -> list[str]:
        """The table of signals, if a rule needs them."""
        return [self.signals] if self.rules.are_measured else []

    @property
    def evidence(self) -> list[str]:
        """The table of evidence, if there is a search."""
        return [self.duplicates] if self.near_duplicates.enabled else []

    def name_search(self) -> dict[str, Any]:
        """What the documents depend on because of the search; see `name_inputs`."""
        return name_inputs(self.near_duplicates, self.rules.drop_duplicates_from)

    def note_report(self, facts: dict[str, Any]) -> dict[str, Any]:
        """The facts, with the place of the report if one is written: the run of a training looks for it."""
        return facts if self.report is None else {**facts, "report": self.report}
