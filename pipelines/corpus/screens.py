"""What the texts of a corpus are compared with: word lists and evaluation sets, as a plan finds them.

The plan reads the lists and lists the files of the sets, so that its fingerprint stands for them. The work
reads exactly these files. Imports no Spark at the top: a plan starts no JVM.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pipelines.corpus.decontamination import Decontamination
from pipelines.corpus.manifest import Manifest, list_sources
from pipelines.corpus.word_list import WordList

if TYPE_CHECKING:
    from pipelines.corpus.matching.evaluation import Index
    from pipelines.corpus.matching.words import Words


@dataclass(frozen=True, kw_only=True, slots=True)
class Screens:
    """Word lists and evaluation sets."""

    words: "tuple[Words, ...]" = ()
    decontamination: Decontamination = field(default_factory=Decontamination)
    evaluation: Manifest | None = None
    """The files of the evaluation sets; None = there are none."""

    def open_index(self) -> "Index | None":
        """The index of the evaluation sets; None = there are none. Errors as in `read_records`."""
        from pipelines.corpus.matching.evaluation import build_index
        from pipelines.corpus.matching.records import read_records

        if self.evaluation is None:
            return None
        return build_index(self.decontamination, read_records(self.decontamination, self.evaluation))


def add_screens(
    manifest: Manifest, word_lists: Sequence[WordList], decontamination: Decontamination
) -> Manifest:
    """The manifest with what its texts are compared with, which is then part of its digest; the manifest as
    it is if there is nothing.

    Raises OSError for a file or folder that cannot be read, ValueError for a list that is not one.
    """
    if not word_lists and not decontamination.enabled:
        return manifest
    words: tuple[Words, ...] = ()
    if word_lists:
        from pipelines.corpus.matching.words import read_words

        words = tuple(map(read_words, word_lists))
    evaluation = _list_sets(decontamination) if decontamination.enabled else None
    screens = Screens(words=words, decontamination=decontamination, evaluation=evaluation)
    return apply_screens(manifest, screens)


def apply_screens(manifest: Manifest, screens: Screens | None) -> Manifest:
    """The manifest of files alone with what their texts are compared with, as `add_screens` gives it."""
    if screens is None:
        return manifest
    evaluation = screens.evaluation.digest if screens.evaluation else ""
    digests = [manifest.digest, *(each.digest for each in screens.words), evaluation]
    digest = hashlib.sha256("\n".join(digests).encode()).hexdigest()[:32]
    return replace(manifest, screens=screens, digest=digest)


def _list_sets(decontamination: Decontamination) -> Manifest:
    try:
        return list_sources(decontamination.evaluation_sets)
    except (FileNotFoundError, PermissionError, ValueError) as error:
        raise type(error)(f"corpus.decontamination.evaluation_sets: {error}") from None
