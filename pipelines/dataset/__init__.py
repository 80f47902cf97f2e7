"""Documents to sequences: tokenizer, packing, the sequences table and the reader that feeds a rank from
it."""
