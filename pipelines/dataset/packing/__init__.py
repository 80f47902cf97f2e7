"""Encoded documents into sequences: one method per file."""
