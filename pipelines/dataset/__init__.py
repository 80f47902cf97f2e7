"""Documents to sequences: tokenizer, examples, packing, the sequences table, and the reader for a rank."""
