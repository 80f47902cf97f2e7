"""Sequences to a trained model: one task, one loop, one strategy for how ranks work together, launched by
Spark.
"""
