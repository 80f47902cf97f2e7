"""Is the new version better? Decide from two evaluations, then apply the verdict."""
