"""A mapper whose texts have lost their copied paragraphs: what every reading of a corpus sees."""

from collections.abc import Mapping

from pipelines.corpus.ids import content_hash
from pipelines.corpus.paragraphs.edit import Copied, Cut, edit_text
from pipelines.corpus.paragraphs.settings import Paragraphs
from pipelines.corpus.readers.mapping import Columns, TextMapper
from pipelines.corpus.source import Source
from pipelines.corpus.split import find_split


class EditedMapper:
    """The mapping of one source; `copied` is that of the block which the task reads.

    A text that loses something keeps the split of the whole text. By the hash of what is left, a text of
    train could become one of test, which has to be whole.
    """

    def __init__(self, mapper: TextMapper, source: Source, settings: Paragraphs, copied: Copied) -> None:
        self._mapper, self._splits = mapper, source.splits
        self._settings, self._copied = settings, copied

    def map_values(self, values: Mapping[str, object]) -> Columns:
        """The columns of a record; errors as in `Mapper`."""
        columns = self._mapper.map_values(values)
        if columns.parts is not None or not self._copied.owners:
            return columns
        identity = content_hash(columns.text.encode(), None)
        split, content = columns.split or find_split(identity, self._splits), bytes.fromhex(identity)
        if split not in self._settings.drop_from or content in self._copied.whole:
            return columns
        text, removed = edit_text(columns.text, content, self._copied.owners, self._settings)
        if not removed:
            return columns
        return columns._replace(text=text, split=split, cut=Cut(len(columns.text), removed))
