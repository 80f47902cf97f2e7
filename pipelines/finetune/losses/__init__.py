"""The loss of each sequence at each step: measured by the ranks, kept as a table beside the run."""
