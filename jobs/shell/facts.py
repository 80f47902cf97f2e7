"""Facts of a table's newest commit as short text for a person: what the table at the end of a run shows."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.dataset.earlier import Inputs
    from pipelines.dataset.forecast import Build
    from pipelines.pin import Pin


def display_documents(pin: "Pin") -> dict[str, str]:
    """Records read, kept by split, dropped by reason, quarantined; edits if a source asks for cleaning."""
    facts = pin.facts
    kept, dropped = (
        ", ".join(f"{name} {count:,}" for name, count in facts[part].items()) for part in ("kept", "dropped")
    )
    records, quarantined = f"{facts['records']:,}", f"{facts['quarantined']:,}"
    shown = {"rows in": records, "kept": kept, "dropped": dropped or "0", "quarantined": quarantined}
    if "edits" in facts:
        edits = (f"{step} {count['edits']:,}" for step, count in facts["edits"].items())
        shown["cleaned"] = ", ".join(edits) or "0"
    if "paragraphs" in facts:
        removed, chars = (
            sum(counts[name] for counts in facts["paragraphs"].values())
            for name in ("paragraphs", "removed_chars")
        )
        shown["paragraphs removed"] = f"{removed:,}; {chars:,} characters"
    if near := facts.get("near_duplicates"):
        shown["near duplicates"] = (
            f"{near['clusters']:,} clusters; {near['pairs']:,} pairs shared a bucket, {near['near_pairs']:,} "
            "of them are near duplicates"
        )
    if "contamination" in facts:
        hits = (
            f"{name} {of_set['documents']:,} documents with {of_set['records_hit']:,} of "
            f"{of_set['records']:,} records"
            for name, of_set in facts["contamination"].items()
        )
        shown["contaminated"] = "; ".join(hits)
    return shown


def display_sequences(pin: "Pin") -> dict[str, str]:
    """Sequences by split, tokens and the share of the sequences that they fill, tokens lost because a
    document is longer than a sequence, and what made the tokens."""
    splits = pin.facts["splits"]
    sequences = ", ".join(f"{split} {counts['sequences']:,}" for split, counts in splits.items())
    tokens, cut = (sum(counts[name] for counts in splits.values()) for name in ("tokens", "cut_tokens"))
    places = sum(counts["sequences"] for counts in splits.values()) * pin.facts["sequence_length"]
    # A row of several texts may be longer than sequence_length, which bounds each of them.
    share = f"; {tokens / max(1, places):.2%} of sequences x sequence_length" if tokens <= places else ""
    shown = {"sequences": sequences, "tokens": f"{tokens:,}{share}", "tokens cut off": f"{cut:,}"}
    if without := sum(counts.get("without_target", 0) for counts in splits.values()):
        shown["without a target"] = f"{without:,} sequences"
    if (left_out := pin.facts.get("left_out", {})).get("documents"):
        named = [f"; first {first['doc_id']}: {first['reason']}" for first in left_out["first"][:1]]
        shown["documents left out"] = f"{left_out['documents']:,}{''.join(named)}"
    if "encoder" in pin.facts:
        shown["tokens made by"] = pin.facts["encoder"]
    return shown


def display_predictions(pin: "Pin") -> dict[str, str]:
    """The model, its run, and how many predictions it has now."""
    facts, num_added = pin.facts, pin.num_rows
    return {
        "model": facts["model"],
        "run": facts["run"],
        "predictions added": f"{num_added:,}",
        "predictions of this version": f"{facts['before'] + num_added:,}",
    }


def forecast_sequences(inputs: "Inputs", build: "Build") -> dict[str, str]:
    """What the next build of sequences would do: only a dry run asks, and loads Arrow for it."""
    from pipelines.dataset.forecast import forecast_build

    return forecast_build(inputs, build)
