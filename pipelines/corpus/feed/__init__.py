"""The change feed of a Delta table as a source: its rows are landed in a table, each version once."""
