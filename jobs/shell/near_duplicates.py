"""The keys of stage 1 that concern rules, contamination and near duplicates, and its plan."""

from typing import TYPE_CHECKING, Any

from jobs.shell.settings import AbsolutePath, Section, TablePlace
from pipelines.corpus import decontamination
from pipelines.corpus.decontamination import Decontamination
from pipelines.corpus.neardup.presets import NearDuplicates, name_inputs
from pipelines.corpus.rules import Rules

if TYPE_CHECKING:
    from pipelines.corpus.build import Corpus
    from pipelines.corpus.manifest import Manifest


class SearchSection(Section):
    """A section with rules, evaluation sets and a search for near duplicates."""

    rules: Rules
    signals: TablePlace
    word_matches: TablePlace
    decontamination: Decontamination
    contamination: TablePlace
    near_duplicates: NearDuplicates
    duplicates: TablePlace
    signatures: TablePlace
    similarities: TablePlace
    report: AbsolutePath | None

    @property
    def measured(self) -> list[str]:
        """The tables of what the rules look at, if there are such rules."""
        signals = [self.signals] if self.rules.are_measured else []
        return [*signals, *([self.word_matches] if self.rules.word_lists else [])]

    @property
    def evidence(self) -> list[str]:
        """The tables of evidence, of what is looked for."""
        hits = [self.contamination] if self.decontamination.enabled else []
        return [*hits, *([self.duplicates] if self.near_duplicates.enabled else [])]

    def name_search(self) -> dict[str, Any]:
        """What the documents depend on because of the searches; see the two functions `name_inputs`."""
        own = self.model_dump(mode="json", include={"decontamination"})["decontamination"]
        hits = decontamination.name_inputs(own)
        return hits | name_inputs(self.near_duplicates, self.rules.drop_duplicates_from)

    def add_screens(self, manifest: "Manifest") -> "Manifest":
        """The manifest with the word lists and evaluation sets; see `screens.add_screens`."""
        from pipelines.corpus.screens import add_screens

        return add_screens(manifest, self.rules.word_lists, self.decontamination)

    def note_report(self, facts: dict[str, Any]) -> dict[str, Any]:
        """The facts, with the place of the report if one is written: the run of a training looks for it."""
        return facts if self.report is None else {**facts, "report": self.report}


def write_measured(config: SearchSection, corpus: "Corpus", made_from: str, facts: dict[str, Any]) -> None:
    """Write the tables of what the rules look at, and of what the texts have of evaluation sets; those that
    the configuration asks for."""
    from pipelines.tables import CONTAMINATION, SIGNALS, WORD_MATCHES

    if config.rules.are_measured:
        SIGNALS.overwrite(corpus.signals(), config.signals, fingerprint=made_from, facts=facts)
    if config.rules.word_lists:
        WORD_MATCHES.overwrite(corpus.word_matches(), config.word_matches, fingerprint=made_from, facts=facts)
    if config.decontamination.enabled:
        CONTAMINATION.overwrite(
            corpus.contamination(), config.contamination, fingerprint=made_from, facts=facts
        )
