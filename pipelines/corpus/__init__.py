"""Raw files -> documents: every record becomes a document, kept or dropped, or a quarantine row.

source.py      what to read                       readers/     records of one format, good or broken
listing.py     the files of a source              clean.py     one form for each text, optional steps
ids.py         identity of document and content   pii.py       personal data to placeholders
split.py       train, validation, test            language.py  language and script of a text
signals/       numbers of a text                  measure.py   signals of the texts that a task reads
presets.py     published limits of signals        rules.py     limits of a document
quality.py     labels of those that break them    what_if.py   what other limits would keep
dedup.py       exact copies, repeated keys        build.py     all of it in order; the counts must add up
national_ids.py  numbers of persons by country, with their checks; pii_kind.py: what a kind is
quarantine.py  refuses a source that is mostly broken
"""
