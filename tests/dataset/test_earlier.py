"""Which files of the documents an increment opens."""

import pytest

from pipelines.dataset.earlier import Bounds, ChangedFiles

FILES = {
    "a": Bounds(("web", "web"), ("web/1", "web/4")),
    "b": Bounds(("books", "web"), None),
    "c": Bounds(None, ("books/1", "books/1")),
    "d": Bounds(("web", "web"), ("web/5", "web/9")),
}


@pytest.mark.parametrize(
    ("places", "found"),
    [
        ({"web": {"web/1"}}, "ab"),
        ({"web": {"web/4", "web/5"}}, "abd"),
        ({"web": None}, "abcd"),
        ({"books": {"books/1"}}, "bc"),
        ({"books": None}, "bc"),
        ({"码": {"web/1"}}, ""),
        ({"books": {"books/2"}, "web": {"web/9"}}, "bd"),
        ({}, ""),
    ],
)
def test_files_that_may_hold_a_place(places, found):
    files = ChangedFiles("documents", list(FILES), [], [], FILES)
    assert files.find_places(places) == list(found)
