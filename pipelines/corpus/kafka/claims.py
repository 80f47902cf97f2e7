"""The claims of a topic, as files: FOLDER/_claims/NUMBER.json, and NUMBER.done when its records are landed.

A claim is created on the condition that there is none of its number (`Folder.create`), so two drivers that
want to make the next one at the same time agree on one. Nothing is ever deleted or written again: a claim
that a killed driver left is finished by the next one, with the same offsets.
"""

import json
import re
import uuid
from collections.abc import Iterable

from pipelines.corpus.kafka.ranges import Claim, Range, decode_claim
from pipelines.storage import Folder

CLAIMS = "_claims"
"""Hidden from the listing of files, because it begins with '_'."""
_NAME = re.compile(r"(\d+)\.json")


class Claims:
    """The claims of the topic whose records are landed in `folder`."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder / CLAIMS

    def read_newest(self) -> Claim | None:
        """The claim with the highest number; None = there is none yet. Raises ValueError if it cannot be
        read."""
        numbers = [int(found[1]) for name in self._folder.names() if (found := _NAME.fullmatch(name))]
        if not numbers:
            return None
        name = _name(max(numbers), "json")
        try:
            return decode_claim(json.loads(self._folder.read(name)))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self._folder.path}/{name} is no list of offsets ({error!r}); bring back the file as it was"
            ) from None

    def create(self, claim: Claim) -> bool:
        """Whether this call made the claim; False = another driver made one of its number."""
        content = {**claim.encode(), "token": uuid.uuid4().hex}
        return self._folder.create(_name(claim.number, "json"), json.dumps(content).encode())

    def is_done(self, claim: Claim) -> bool:
        """Whether all its records are landed."""
        return self._folder.exists(_name(claim.number, "done"))

    def finish(self, claim: Claim, skipped: Iterable[Range]) -> None:
        """All its records are landed, but those that Kafka had deleted meanwhile."""
        content = {"skipped": [list(each) for each in skipped]}
        self._folder.create(_name(claim.number, "done"), json.dumps(content).encode())


def _name(number: int, suffix: str) -> str:
    return f"{number:012}.{suffix}"
