"""Texts compared with what others wrote: evaluation sets, and lists of words."""
