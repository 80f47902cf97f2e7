"""The report of a corpus: what its rules kept and dropped, counted from the tables, as one HTML page."""
