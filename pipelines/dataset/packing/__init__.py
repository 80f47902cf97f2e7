"""Units to sequences (rows) of at most `sequence_length` tokens: one method per file."""
