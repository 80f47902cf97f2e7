"""Models: built from weights or from scratch, with a head for the task; the model folder."""
