"""Checkpoints: complete or absent, checked by sha256, readable by any strategy with any number of ranks."""
