"""The sequences table: built from all documents, or only in the groups that changed since it was built."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from pipelines.dataset.build import (
    BuiltSequences,
    Counts,
    build_sequences,
    count_sources,
    describe_masking,
    sum_sources,
)
from pipelines.dataset.chat_format import ChatFormat
from pipelines.dataset.chat_template import load_chat_format
from pipelines.dataset.documents import (
    Before,
    DocumentSummary,
    choose_tokenizer,
    read_documents,
    summarize_documents,
)
from pipelines.dataset.earlier import (
    FullBuildNeededError,
    Inputs,
    add_counts,
    find_changed_files,
    find_earlier,
)
from pipelines.dataset.examples.table import load_builder
from pipelines.dataset.increment import Increment, find_increment, read_groups, read_versions
from pipelines.dataset.layout import Layout, lay_out_groups
from pipelines.dataset.left_out import Rebuilt, check_left_out
from pipelines.dataset.left_out_limit import LeftOut
from pipelines.dataset.packing.rules import PackingRules
from pipelines.dataset.pinned_files import require_columns
from pipelines.dataset.source_facts import describe_changed, describe_sources
from pipelines.dataset.tokenizer import ChosenTokenizer, read_tokenizer, wrap_trained
from pipelines.dataset.tokenizer_choice import TokenizerChoice
from pipelines.dataset.tokenizer_facts import keep_tokenizer
from pipelines.pin import Pin, open_log
from pipelines.tables import SEQUENCES


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceBuild:
    """What to build, and where."""

    task: str
    tokenizer: TokenizerChoice
    packing: PackingRules
    sequences: str
    """Table written."""
    tokenizers: str
    """Folder written."""
    fingerprint: str
    """Of all inputs."""
    max_left_out_fraction: float = 0.0
    """Share of the documents that a task may leave out."""
    report: str | None = None
    """Where the page of the report is written; None = there is none. The run of a training looks for it."""


def write_sequences(
    spark: SparkSession, inputs: Inputs, build: SequenceBuild, *, phase: Callable[[str], None]
) -> tuple[Pin, str]:
    """(the written rows, what was built in words).

    Raises ValueError, before documents are read, if an earlier Distributary wrote the table with other
    columns, FileNotFoundError if the table is there, but its tokenizer is lost.
    """
    _require_present_columns(build.sequences)
    documents, pinned = read_documents(spark, inputs.documents)
    earlier = find_earlier(build.sequences, inputs)
    kept, reason = None, ""
    try:
        kept = _keep_tokenizer(build, earlier)
        if earlier is not None and (kept is not None or build.tokenizer.base is not None):
            return _write_increment(spark, documents, pinned, inputs, build, earlier, kept, phase)
    except FullBuildNeededError as needed:
        reason = f"; {needed}"
    summary = _summarize(documents, build)
    layout = lay_out_groups(summary.place_bytes, build.packing.group_bytes)
    chosen = _choose(documents, build, summary, kept, phase)
    phase(f"packing documents into sequences, {len(layout.groups):,} groups{reason}")
    built = _build(documents, build, chosen, summary, layout)
    with SEQUENCES.hold(built.rows, build.sequences) as held:
        by_source, max_fraction = count_sources(held.rows), build.max_left_out_fraction
        counts = sum_sources(by_source)
        left_out = check_left_out(documents, held.rows, built.job, counts, summary, max_fraction)
        facts = _describe(build, inputs, pinned, chosen, summary, built, counts, left_out)
        facts |= describe_sources(by_source)
        phase("writing sequences")
        pin = SEQUENCES.overwrite(held, build.sequences, fingerprint=build.fingerprint, facts=facts)
    if pin.facts["tokenizer"] != facts["tokenizer"]:
        raise FileNotFoundError(
            f"no tokenizer {pin.facts['tokenizer']} in {build.tokenizers}, and it was trained on other "
            "documents; delete the sequences table and run the dataset stage again"
        )
    return pin, f"all {len(layout.groups):,}{reason}"


def _write_increment(
    spark: SparkSession,
    documents: DataFrame,
    pinned: Pin,
    inputs: Inputs,
    build: SequenceBuild,
    earlier: Pin,
    kept: ChosenTokenizer | None,
    phase: Callable[[str], None],
) -> tuple[Pin, str]:
    """Raises FullBuildNeededError before anything is written."""
    phase(f"comparing documents with version {earlier.facts['documents']['version']}")
    files = find_changed_files(earlier, pinned)
    versions = read_versions(spark, files)
    summary = _summarize(documents, build, versions)
    if list(summary.labels) != list(earlier.facts["labels"]):
        raise FullBuildNeededError("there are other classes than before, and classes are numbered")
    layout, log = (lay_out_groups(summary.place_bytes, build.packing.group_bytes), open_log(build.sequences))
    if log is None or log.folder is None:
        raise FullBuildNeededError("the sequences table is written by its catalog")
    increment = find_increment(
        versions, summary, layout, log, task=build.task, group_bytes=build.packing.group_bytes
    )
    chosen = _choose(documents, build, summary, kept, phase)
    words = f"{len(increment.groups):,} of {len(layout.groups):,}"
    if kept is not None:
        words += f"; the tokenizer is that of version {earlier.version}"
    phase(f"packing documents into sequences again, groups {words}")
    some = read_groups(spark, files, layout, increment.groups)
    built = _build(some, build, chosen, summary, layout, increment)
    with SEQUENCES.hold(built.rows, build.sequences) as held:
        by_source = count_sources(held.rows)
        added, removed = sum_sources(by_source), sum_sources(increment.counts)
        counts = add_counts(earlier.facts["splits"], added, removed)
        max_fraction = build.max_left_out_fraction
        named = (LeftOut(**each) for each in earlier.facts["left_out"]["first"])
        rebuilt = Rebuilt(layout, increment.groups, tuple(named))
        left_out = check_left_out(documents, held.rows, built.job, counts, summary, max_fraction, rebuilt)
        facts = _describe(build, inputs, pinned, chosen, summary, built, counts, left_out)
        facts |= describe_changed(earlier.facts, by_source, increment.counts)
        phase("writing sequences")
        pin = SEQUENCES.extend(
            held,
            build.sequences,
            base=earlier.fingerprint,
            fingerprint=build.fingerprint,
            facts=facts,
            replaced=increment.replaced,
        )
    return pin, words


def _require_present_columns(path: str) -> None:
    log = open_log(path)
    if log is not None:
        require_columns(path, log.version, log.source.columns, SEQUENCES.schema.names)


def _summarize(documents: DataFrame, build: SequenceBuild, before: Before | None = None) -> DocumentSummary:
    return summarize_documents(
        documents,
        max_bytes=build.tokenizer.max_bytes,
        group_bytes=build.packing.group_bytes,
        with_labels=load_builder(build.task).has_labels,
        with_label_sets=load_builder(build.task).has_label_sets,
        before=before,
    )


def _keep_tokenizer(build: SequenceBuild, earlier: Pin | None) -> ChosenTokenizer | None:
    """The trained tokenizer of the earlier sequences; None if there is none to keep.

    Raises FullBuildNeededError if it is lost: another one is trained.
    """
    choice = build.tokenizer
    if earlier is None or choice.base is not None or not choice.keep_trained:
        return None
    chat = load_chat_format(choice.chat, None) if load_builder(build.task).is_chat else ChatFormat()
    try:
        kept = read_tokenizer(build.tokenizers, earlier.facts["tokenizer"])
    except FileNotFoundError:
        raise FullBuildNeededError(f"the tokenizer of version {earlier.version} is gone") from None
    return wrap_trained(kept)._replace(chat=chat)


def _choose(
    documents: DataFrame,
    build: SequenceBuild,
    summary: DocumentSummary,
    kept: ChosenTokenizer | None,
    phase: Callable[[str], None],
) -> ChosenTokenizer:
    if kept is not None:
        return kept
    phase("reading the tokenizer" if build.tokenizer.base else "training the tokenizer")
    return choose_tokenizer(documents, build.tokenizer, summary, task=build.task)


def _build(
    documents: DataFrame,
    build: SequenceBuild,
    chosen: ChosenTokenizer,
    summary: DocumentSummary,
    layout: Layout,
    increment: Increment | None = None,
) -> BuiltSequences:
    options: dict[str, Any] = {"task": build.task, "labels": summary.labels, "layout": layout}
    if increment is not None:
        options["only"] = increment.groups.intersection(layout.groups)
    return build_sequences(documents, chosen, build.packing, **options)


def _describe(
    build: SequenceBuild,
    inputs: Inputs,
    pinned: Pin,
    chosen: ChosenTokenizer,
    summary: DocumentSummary,
    built: BuiltSequences,
    counts: Counts,
    left_out: dict[str, Any],
) -> dict[str, Any]:
    """What the commit keeps."""
    return {
        "report": build.report,
        "task": build.task,
        "labels": summary.labels,
        **keep_tokenizer(chosen, build.tokenizers, is_chat=load_builder(build.task).is_chat),
        "splits": counts,
        "left_out": left_out,
        "end_token_id": built.job.end_token_id,
        **describe_masking(chosen, build.task),
        "sequence_length": build.packing.sequence_length,
        "settings": inputs.settings,
        "documents": {**asdict(pinned), "facts": {}},
    }
