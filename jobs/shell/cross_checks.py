"""Checks of a configuration that need several sections: before the first stage, not hours later in the third.

Only what is certain is a fault. Where a stage reads another table than the one the stage above it writes,
nothing is known of its rows.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from jobs.shell.layers import suggest_name
from pipelines.dataset.mixing.rules import SUM_TOLERANCE, Mixture


def find_cross_faults(sections: Mapping[str, Any]) -> list[str]:
    """A sentence for each fault; empty if corpus, dataset and finetune are not all there."""
    if not {"corpus", "dataset", "finetune"} <= sections.keys():
        return []
    corpus, dataset, finetune = (sections[name] for name in ("corpus", "dataset", "finetune"))
    if dataset.documents != corpus.documents or finetune.sequences != dataset.sequences:
        return []
    all_names = [source.name for source in corpus.sources]
    if not all_names:  # another program writes the documents
        return []
    # A record may name its split itself, if the source maps a field to it.
    trained = [
        source.name
        for source in corpus.sources
        if source.splits.get("train", 0) > 0 or "split" in source.fields
    ]
    return list(_find_mixture_faults(finetune.mixture, all_names, trained))


def _find_mixture_faults(mixture: Mixture, all_names: list[str], trained: list[str]) -> Iterator[str]:
    limits = mixture.max_repeats if isinstance(mixture.max_repeats, dict) else {}
    keys: dict[str, Mapping[str, float]]
    keys = {"shares": mixture.shares, "max_repeats": limits, "max_sequences": mixture.max_sequences}
    for key, named in keys.items():
        for source in sorted(named.keys() - set(trained)):
            if source in all_names:
                yield (
                    f"finetune.mixture.{key} names source {source}, whose corpus.sources[].splits has no "
                    f"train, got {named[source]:g}; remove it there, or give the source a share of train"
                )
            else:
                yield (
                    f"finetune.mixture.{key} names source {source}, and corpus.sources has only "
                    f"{', '.join(all_names)}{suggest_name(source, all_names)}; take one of these"
                )
    total = sum(mixture.shares.values())
    if trained and mixture.shares.keys() == set(trained) and total < 1 - SUM_TOLERANCE:
        yield (
            "finetune.mixture.shares name every source of corpus.sources, so they must add up to 1, got "
            f"{total:g}; raise one, or leave one out: it gets the rest"
        )
