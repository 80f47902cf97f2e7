"""Repeated paragraphs."""
