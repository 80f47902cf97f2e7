"""Sources -> documents and quarantine, and the counts that prove that no record was lost.

0. If asked for, find the paragraphs that are copies; all readings below give texts without (`paragraphs/`).
1. Read positions: ids, sizes and faults of all records (`read_positions`), and what is measured of their
   texts, kept on the executors. Slices of gzip files get their exact places (`settle`).
2. Find copies and repeated keys among the positions (`dedup.py`): labels of single records.
3. If asked for, find near duplicates among the rest (`neardup/`).
4. Count what documents and quarantine must hold, so that a wrong mapping fails before documents are written.
5. Read again: documents with their labels, to the writer (`read_documents`).
6. Compare what was written with what was counted.

Cost: two passes over the files besides those of 0; about 60 bytes a record are shuffled, twice that if a
source maps a key.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

from pyspark.sql import DataFrame, Observation, Row, SparkSession
from pyspark.sql import functions as F

from pipelines.change import Replaced
from pipelines.contract import ChangedMeanwhileError
from pipelines.corpus.cleaning import Cleaning
from pipelines.corpus.copies import count_groups, find_copies, find_earlier
from pipelines.corpus.counts import compute_checksum, count_edits, count_records
from pipelines.corpus.dedup import find_first_records, label_repeated_keys, leave_out_repeated_keys
from pipelines.corpus.evidence import count_contamination, list_contamination, list_word_matches
from pipelines.corpus.increment import Earlier, add_facts, add_rows, require_later_records, select_keys
from pipelines.corpus.manifest import Manifest
from pipelines.corpus.measure import MEASURES, prepare_measuring
from pipelines.corpus.members import search_members
from pipelines.corpus.neardup.find import Found, Search
from pipelines.corpus.paragraphs.evidence import count_removed, list_removed
from pipelines.corpus.paragraphs.find import open_edits
from pipelines.corpus.paragraphs.settings import Paragraphs
from pipelines.corpus.quality import label_contamination, label_quality, label_rules
from pipelines.corpus.quarantine import number_lines
from pipelines.corpus.readers.files import read_documents, read_positions, read_repeated
from pipelines.corpus.readers.settle import settle
from pipelines.corpus.readers.slices import LABELS, Slices, choose_partitions, choose_slice_bytes, cut_files
from pipelines.corpus.relabel import Relabelled, relabel
from pipelines.corpus.rules import Rules
from pipelines.corpus.screens import Screens
from pipelines.corpus.signals.names import SIGNALS as SIGNAL_NAMES
from pipelines.corpus.source import Source, check_names
from pipelines.corpus.split import label_splits
from pipelines.held import HeldRows
from pipelines.schema import arrow_schema
from pipelines.spark import count_slots, persisted, shuffling
from pipelines.tables import DOCUMENTS, QUARANTINE


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """What was found in the sources. Its rows live as long as the context of `open_corpus`."""

    sources: Sequence[Source]
    rules: Rules
    slices: Slices
    positions: DataFrame
    """Rows of POSITIONS, the split filled."""
    documents: DataFrame
    """Positions of the documents: good records but those that repeat a key."""
    copies: DataFrame | None
    """Positions with duplicate_of, of near duplicates also failed_rule; None = there are none."""
    repeated: DataFrame | None
    """Positions with first_file and first_offset; None = there are none."""
    facts: dict[str, Any]
    """Records, documents, quarantine by kind, kept by split, dropped by reason, each source; edits by
    step if a source asks for cleaning; removed paragraphs by source if they are asked for; contamination by
    evaluation set if there is one."""
    checksum: int
    """Xor over ids and content hashes of the documents."""
    read: dict[str, Any]
    """The facts of the files that were read, without those of earlier documents."""
    relabelled: Relabelled | None = None
    """Earlier documents whose labels the new ones change."""
    near_duplicates: Found | None = None
    """None = they were not looked for."""
    screens: Screens = field(default_factory=Screens)
    """What the texts were compared with."""

    @property
    def replaced(self) -> Replaced:
        """What the documents replace, once they have been held; empty = nothing."""
        return Replaced() if self.relabelled is None else self.relabelled.replaced

    def quarantine(self) -> DataFrame:
        """Rows of QUARANTINE."""
        spark = self.positions.sparkSession
        broken = self.positions.where("reason IS NOT NULL").drop("failed_rule").transform(_leave_out_measures)
        if self.repeated is not None:
            labels = _select_labels(self.repeated)
            broken = broken.unionByName(read_repeated(spark, self.sources, self.slices, labels))
        return number_lines(broken, self.positions).select(*QUARANTINE.schema.names)

    def find_quarantine(self, path: str) -> DataFrame | HeldRows:
        """Rows of QUARANTINE for the table at `path`. If there are none, they cost no job."""
        if self.read["quarantined"]:
            return self.quarantine()
        return QUARANTINE.hold_nothing(self.positions.sparkSession, path)

    def signals(self) -> DataFrame:
        """Rows of SIGNALS; a signal that no rule looks at is null."""
        asked = {name: f"signals[{place}]" for place, name in enumerate(self.rules.signals)}
        columns = (f"{asked.get(name, 'CAST(NULL AS DOUBLE)')} AS `{name}`" for name in SIGNAL_NAMES)
        return self.documents.selectExpr("doc_id", "language", "language_score", *columns)

    def contamination(self) -> DataFrame:
        """Rows of CONTAMINATION."""
        return list_contamination(self.documents, self.screens.decontamination)

    def removed_paragraphs(self) -> DataFrame:
        """Rows of REMOVED_PARAGRAPHS."""
        return list_removed(self.documents)

    def word_matches(self) -> DataFrame:
        """Rows of WORD_MATCHES. Needs a word list in the rules."""
        return list_word_matches(self.documents, self.rules.word_lists, self.rules.signals)

    @contextmanager
    def hold_documents(self, path: str) -> Iterator[HeldRows]:
        """Rows of DOCUMENTS for the table at `path`, computed by reading the files again, and earlier rows
        whose labels change.

        Raises ChangedMeanwhileError if they are not those that were counted.
        """
        may_fail = self.rules.read_texts or self.screens.decontamination.drops
        failed = self.documents.where("failed_rule IS NOT NULL") if may_fail else None
        labels = [_select_labels(rows) for rows in (self.copies, self.repeated, failed) if rows is not None]
        both = reduce(DataFrame.unionByName, labels) if labels else None
        rows = read_documents(self.positions.sparkSession, self.sources, self.slices, both)
        documents = rows.transform(label_splits, self.sources).transform(label_quality, self.rules)
        measured = Observation()
        counted = documents.observe(measured, compute_checksum().alias("checksum"))
        counted, expected = counted.select(*DOCUMENTS.schema.names), self.read["documents"]
        if self.relabelled is not None:
            counted = counted.unionByName(self.relabelled.read_changed())
            expected += self.relabelled.num_rows
        with DOCUMENTS.hold(counted, path) as held:
            if held.num_rows != expected or (measured.get["checksum"] or 0) != self.checksum:
                raise ChangedMeanwhileError(
                    f"corpus: {self.read['records']:,} records should give {expected:,} "
                    f"documents, but reading them again gave {held.num_rows:,}, or other ones: files changed "
                    "while they were read; run the stage again when no other program writes to them"
                )
            yield held


@contextmanager
def open_corpus(
    spark: SparkSession,
    sources: Sequence[Source],
    manifest: Manifest,
    rules: Rules,
    search: Search | None = None,
    earlier: Earlier | None = None,
    paragraphs: Paragraphs | None = None,
) -> Iterator[Corpus]:
    """Read the positions of all records now, and find copies, repeated keys and counts; with a `search` also
    near duplicates. With `earlier` documents, the manifest has only files that they were not made from.
    `paragraphs` removes copied ones; not with `earlier` documents, see `intake.py`.

    The result depends only on the records, not on their order or on how the files are cut.
    """
    check_names(sources)
    measuring, screens = prepare_measuring(rules, manifest), manifest.screens or Screens()
    slices = cut_files(manifest, sources, choose_slice_bytes(manifest, count_slots(spark)))
    with ExitStack() as stack:
        stack.enter_context(shuffling(spark, choose_partitions(manifest)))
        if paragraphs is not None and paragraphs.enabled:
            slices = stack.enter_context(open_edits(spark, sources, slices, paragraphs))

        def read(part: Slices) -> DataFrame:
            found = read_positions(spark, sources, part, measuring).transform(label_splits, sources)
            labelled = found.transform(label_rules, rules)
            return labelled.transform(label_contamination, screens.decontamination)

        positions = stack.enter_context(persisted(read(slices)))
        positions, slices = stack.enter_context(settle(positions, slices, read))
        documents, repeated = positions.where("doc_id IS NOT NULL"), None
        if any("key" in source.fields for source in sources):
            same_keys = find_earlier(stack, earlier, select_keys(documents))
            groups = find_first_records(add_rows(documents, same_keys))
            first_records, num_repeated = count_groups(stack, earlier, groups)
            if num_repeated and same_keys is not None:
                require_later_records(same_keys, first_records)
            if num_repeated:
                repeated = stack.enter_context(
                    persisted(label_repeated_keys(_leave_out_measures(documents), first_records))
                )
                documents = leave_out_repeated_keys(documents, first_records)
        protected = search.settings.protected_sources if search else ()
        found = find_copies(stack, _leave_out_measures(documents), earlier, protected)
        near, copies = None, found.labelled
        if search is not None:
            near = stack.enter_context(search_members(found, sources, slices, rules, search, earlier))
            removed = near.removed.where("task IS NOT NULL")
            copies = removed if copies is None else copies.unionByName(removed, True)
        relabelled, moves = None, list[Row]()
        if earlier is not None:
            relabelled, moves = relabel(stack, earlier, found, near, rules)
        shared_names = [source.name for source in sources if source.reader.name_file]
        facts, checksum = count_records(positions, documents, copies, repeated, rules, shared_names)
        if any(source.cleaning != Cleaning() for source in sources):
            facts["edits"] = count_edits(documents)
        if slices.edits is not None:
            facts["paragraphs"] = count_removed(documents, slices.edits)
        if measuring.index is not None:
            hits = list_contamination(documents, screens.decontamination)
            hits = hits if earlier is None else earlier.add_hits(hits)
            facts["contamination"] = count_contamination(hits, measuring.index)
            facts["decontamination"] = screens.decontamination.limits
        total = facts if earlier is None else add_facts(earlier.pin.facts, facts, moves)
        for name, version in manifest.versions.items():
            if name in total["sources"]:
                total["sources"][name]["version"] = version
        yield Corpus(
            sources=sources,
            rules=rules,
            slices=slices,
            positions=positions,
            documents=documents,
            copies=copies,
            repeated=repeated,
            facts=total if near is None else {**total, "near_duplicates": near.facts},
            checksum=checksum,
            read=facts,
            relabelled=relabelled,
            near_duplicates=near,
            screens=screens,
        )


def _leave_out_measures(positions: DataFrame) -> DataFrame:
    """Without what was measured, which is kept with the positions only; failed_rule stays."""
    return positions.drop(*arrow_schema(MEASURES).names)


def _select_labels(rows: DataFrame) -> DataFrame:
    """Labels as `scatter` needs them; what the rows do not have is null."""
    columns = [column.split() for column in LABELS.split(", ")]
    return rows.select(
        *(
            (F.col(name) if name in rows.columns else F.lit(None).cast(kind)).alias(name)
            for name, kind in columns
        )
    )
