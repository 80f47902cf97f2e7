"""Raw files -> documents: every record becomes a document, kept or dropped with its reason, or a row of quarantine.

source.py   what to read and where it lies        readers/    records of one format, good or broken
clean.py    one form of a text                    ids.py      who a document is, what it says
split.py    train, validation, test               quality.py  rules that label
dedup.py    exact copies, repeated keys           build.py    all of it in order, and the count that must add up
"""
