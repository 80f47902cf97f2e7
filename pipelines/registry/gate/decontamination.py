"""Were the documents of a training compared with the evaluation sets that the gate asks for?

A model that has seen the questions of a benchmark scores well on it and proves nothing. The run names its
documents by table, version and digest; their commit says which sets were looked for, where, and what became
of hits. Nothing else is read. A commit that says nothing, or is gone, is no proof: the model is refused.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipelines.pin import open_log
from pipelines.registry.gate.decide import Verdict
from pipelines.registry.runs.lineage import read_lineage
from pipelines.tables import DOCUMENTS

TRAINED_ON = "train"
"""The split in which hits must have been looked for."""
_SECTION = "corpus.decontamination"


def require_decontaminated(verdict: Verdict, run_id: str, sets: Sequence[str]) -> Verdict:
    """The verdict with the counts by set, and without promotion if documents of the run may have texts of one
    of these evaluation sets. Without sets, the verdict as it is."""
    if not sets:
        return verdict
    found, reasons = [], []
    inputs = [each for each in read_lineage(run_id)["inputs"] if each["table"] == DOCUMENTS.name]
    if not inputs:
        reasons.append(f"run {run_id} names no table of documents, so nothing says what it was compared with")
    for documents in inputs:
        facts = _read_facts(documents)
        reasons.extend(find_contaminated(facts, sets, f"documents version {documents['version']}"))
        found.append(_describe(documents, facts or {}, sets))
    if not reasons:
        return replace(verdict, decontamination=found)
    reason = f"{verdict.reason}; not decontaminated: {'; '.join(reasons)}, then: distributary run"
    return replace(verdict, promote=False, reason=reason, decontamination=found)


def find_contaminated(facts: Mapping[str, Any] | None, sets: Sequence[str], name: str) -> Iterator[str]:
    """Why documents may have texts of one of the sets, each reason with its remedy; nothing if all is well.

    `facts` are those of the commit of the documents, None if there is no such commit of ours; `name` is what
    the reasons call the documents.
    """
    if facts is None:
        yield (
            f"the commit of {name} is gone or of another program, so nothing says what they were compared "
            "with; make them again"
        )
        return
    counts = facts.get("contamination", {})
    if missing := [each for each in sets if each not in counts]:
        yield f"{name} were not compared with {', '.join(missing)}; add it to {_SECTION}.evaluation_sets"
    compared = [each for each in sets if each in counts]
    if not compared:
        return
    settings = facts.get("decontamination")
    if settings is None:
        yield f"the commit of {name} does not say where it was looked for hits; make them again"
        return
    if TRAINED_ON not in settings["drop_from"]:
        yield f"{name} were not compared in {TRAINED_ON}; add {TRAINED_ON} to {_SECTION}.drop_from"
    for each in compared:
        if counts[each]["records"] == counts[each]["too_short"]:
            yield (
                f"none of the {counts[each]['records']:,} records of {each} has "
                f"{_SECTION}.min_record_words = {settings['min_record_words']} words, so none was compared; "
                "lower it"
            )
        if settings["on_hit"] != "drop" and (num_left := counts[each]["exceeding"]):
            yield (
                f"{num_left:,} of {name} have too much of {each} and were not dropped for it; set "
                f"{_SECTION}.on_hit=drop"
            )


def _read_facts(documents: Mapping[str, Any]) -> dict[str, Any] | None:
    """Facts of the commit of a run's input; None if the table is gone or another one, or its log no longer
    has the commit."""
    log = open_log(documents["path"])
    if log is None or log.source.table_id != documents["table_id"]:
        return None
    found = log.read_pin(documents["version"])
    return None if found is None or found.digest != documents["digest"] else found.facts


def _describe(documents: Mapping[str, Any], facts: Mapping[str, Any], sets: Sequence[str]) -> dict[str, Any]:
    """For verdict.json: the documents, the limits, and the counts of each set (null = not compared)."""
    counts = facts.get("contamination", {})
    return {
        "path": documents["path"],
        "version": documents["version"],
        "limits": facts.get("decontamination"),
        "sets": {name: counts.get(name) for name in sets},
    }
