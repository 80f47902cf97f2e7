"""One input format per file. `format.py` is the interface, `table.py` lists the formats, `files.py` runs them
on executors."""
