"""Raw files -> documents: every record becomes a document, kept or dropped, or a quarantine row.

source.py      what to read                       readers/    records of one format, good or broken
listing.py     the files of a source              clean.py    one form for each text
ids.py         identity of document and content   split.py    train, validation, test
rules.py       limits of a document               quality.py  labels of the documents that break them
dedup.py       exact copies, repeated keys        build.py    all of it in order; the counts must add up
quarantine.py  refuses a source that is mostly broken
"""
