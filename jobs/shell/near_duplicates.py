"""The keys of stage 1 that concern rules, contamination, copied paragraphs and near duplicates."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jobs.shell.settings import AbsolutePath, Section, TablePlace
from pipelines.corpus import decontamination
from pipelines.corpus.decontamination import Decontamination
from pipelines.corpus.neardup.presets import NearDuplicates, name_inputs
from pipelines.corpus.paragraphs import settings as paragraphs
from pipelines.corpus.paragraphs.settings import Paragraphs
from pipelines.corpus.rules import Rules

if TYPE_CHECKING:
    from pipelines.corpus.build import Corpus
    from pipelines.corpus.intake import Intake
    from pipelines.corpus.manifest import Manifest


class SearchSection(Section):
    """A section with rules, evaluation sets, and searches for copied paragraphs and near duplicates."""

    rules: Rules
    signals: TablePlace
    word_matches: TablePlace
    decontamination: Decontamination
    contamination: TablePlace
    paragraphs: Paragraphs
    removed_paragraphs: TablePlace
    near_duplicates: NearDuplicates
    duplicates: TablePlace
    signatures: TablePlace
    similarities: TablePlace
    report: AbsolutePath | None
    report_tokenizer: str | None

    @property
    def measured(self) -> list[str]:
        """The tables of what the rules look at, if there are such rules."""
        signals = [self.signals] if self.rules.are_measured else []
        return [*signals, *([self.word_matches] if self.rules.word_lists else [])]

    @property
    def evidence(self) -> list[str]:
        """The tables of evidence, of what is looked for."""
        hits = [self.contamination] if self.decontamination.enabled else []
        removed = [self.removed_paragraphs] if self.paragraphs.enabled else []
        return [*hits, *removed, *([self.duplicates] if self.near_duplicates.enabled else [])]

    def name_search(self) -> dict[str, Any]:
        """What the documents depend on because of the searches; see the two functions `name_inputs`."""
        own = self.model_dump(mode="json", include={"decontamination"})["decontamination"]
        others = decontamination.name_inputs(own) | paragraphs.name_inputs(self.paragraphs)
        return others | name_inputs(self.near_duplicates, self.rules.drop_duplicates_from)

    def add_screens(self, manifest: "Manifest") -> "Manifest":
        """The manifest with the word lists and evaluation sets; see `screens.add_screens`."""
        from pipelines.corpus.screens import add_screens

        return add_screens(manifest, self.rules.word_lists, self.decontamination)

    def note_report(self, facts: dict[str, Any]) -> dict[str, Any]:
        """The facts, with the place of the report if one is written: the run of a training looks for it."""
        return facts if self.report is None else {**facts, "report": self.report}


def write_measured(
    config: SearchSection, corpus: "Corpus", intake: "Intake", facts: Mapping[str, Any]
) -> None:
    """Write the tables of what the rules look at, of what the texts have of evaluation sets, and of the
    paragraphs that they lost; those that the configuration asks for."""
    from pipelines.tables import CONTAMINATION, REMOVED_PARAGRAPHS, SIGNALS, WORD_MATCHES

    if config.rules.are_measured:
        intake.write(SIGNALS, corpus.signals(), config.signals, facts)
    if config.rules.word_lists:
        intake.write(WORD_MATCHES, corpus.word_matches(), config.word_matches, facts)
    if config.decontamination.enabled:
        intake.write(CONTAMINATION, corpus.contamination(), config.contamination, facts)
    if config.paragraphs.enabled:
        intake.write(REMOVED_PARAGRAPHS, corpus.removed_paragraphs(), config.removed_paragraphs, facts)
