"""Model versions: registered once per training, found by alias or number."""
