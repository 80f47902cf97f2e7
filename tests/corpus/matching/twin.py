"""Hits again, one text at a time, with regular expressions, tuples and sets: slow and plain."""

import re
import unicodedata
from collections import Counter

CHARACTER = "[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]"
UNIT = re.compile(f"{CHARACTER}|(?:(?!{CHARACTER})\\w)+")


UNSEEN = re.compile("[\u00ad\u034f\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]")


def find_words(text):
    seen = UNSEEN.sub("", text).replace("\u00b4", " ").replace("\u00a8", " ")
    words = UNIT.findall(unicodedata.normalize("NFKC", seen).casefold())
    return [word.strip("_") for word in words if word.strip("_")]


def weigh(words):
    """In fifths of a word."""
    return sum(3 if re.fullmatch(CHARACTER, word) else 5 for word in words)


def find_grams(words, num_words):
    """The shortest run from each word on that weighs num_words or more, as tuples."""
    grams = []
    for first in range(len(words)):
        end, weight = first, 0
        while end < len(words) and weight < 5 * num_words:
            weight += weigh(words[end : end + 1])
            end += 1
        if weight >= 5 * num_words:
            grams.append(tuple(words[first:end]))
    return grams


def find_owners(records, settings):
    """({(set, n-gram): name}, {(set, words): name}) of the first records that have them; records are (set,
    name, text)."""
    owners, wholes = {}, {}
    for place, name, record in records:
        words = find_words(record)
        for gram in find_grams(words, settings.ngram):
            owners.setdefault((place, gram), name)
        if 5 * settings.min_record_words <= weigh(words) < 5 * settings.ngram:
            wholes.setdefault((place, tuple(words)), name)
    return owners, wholes


def find_hits(text, owners, wholes, settings):
    """({(set, name): number of hits}, hits of the text, its n-grams)."""
    words, hits, places = find_words(text), Counter(), set()
    grams = find_grams(words, settings.ngram)
    for first, gram in enumerate(grams):
        for place in range(len(settings.evaluation_sets)):
            if name := owners.get((place, gram)):
                hits[place, name] += 1
                places.add(("ngram", first))
    for (place, known), name in wholes.items():
        for first in range(len(words) - len(known) + 1):
            if tuple(words[first : first + len(known)]) == known:
                hits[place, name] += 1
                places.add(("whole", first))
    return hits, len(places), len(grams)
