"""One input format per file: `format.py` is the interface, `table.py` the list, `files.py` runs them."""
