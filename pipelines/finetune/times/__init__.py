"""Where the time of a training goes: measured on every rank, added up over ranks, drawn in the run."""
