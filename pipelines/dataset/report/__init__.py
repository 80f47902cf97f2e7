"""The report of a table of sequences: what packing made of the documents, counted, and samples, as HTML."""
