"""Paragraph deduplication again, over all documents at once, with strings for hashes: slow and plain."""

from typing import NamedTuple

from pipelines.corpus.paragraphs.settings import Paragraphs


class Document(NamedTuple):
    split: str
    file: int
    offset: int
    text: str


ORDER = {"test": 0, "validation": 1, "train": 2}


def cut_text(text: str, unit: str) -> list[list[str]]:
    """Lines of each paragraph."""
    blocks: list[list[str]] = [[]]
    for line in text.split("\n"):
        if line.strip() == "":
            blocks.append([])
        elif unit == "line":
            blocks.append([line])
        else:
            blocks[-1].append(line)
    return [block for block in blocks if block]


def deduplicate(documents: list[Document], settings: Paragraphs) -> list[list[str]]:
    """The paragraphs that each document keeps, as words with one space between."""

    def paragraphs(text: str) -> list[str]:
        return [" ".join("\n".join(lines).split()) for lines in cut_text(text, settings.unit)]

    whole = {each.text for each in documents if each.split not in settings.drop_from}
    kept = []
    for each in documents:
        stay = []
        for one in paragraphs(each.text):
            having = [other for other in documents if one in paragraphs(other.text)]
            first = min(having, key=lambda other: (ORDER[other.split], other.file, other.offset))
            is_copy = len({other.text for other in having}) > settings.max_documents
            is_kept_here = settings.survivor == "first" and first.text == each.text
            is_long = len(one.encode()) >= settings.min_bytes
            if not (is_copy and is_long) or is_kept_here or each.text in whole:
                stay.append(one)
        kept.append(stay)
    return kept
