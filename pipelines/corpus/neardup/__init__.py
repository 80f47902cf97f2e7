"""Near-duplicate documents: MinHash, candidate pairs, exact check, clusters, survivors."""
