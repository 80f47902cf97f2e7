"""Hyper-parameter search: many small trainings, and the best of their settings."""
