"""Ranks inside a Spark barrier stage: who they are, how they meet, how they are started."""
