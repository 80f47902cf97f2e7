"""Paragraphs that several documents have: found by hashes of 16 bytes, removed from the texts by position."""
