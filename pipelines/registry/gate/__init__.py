"""Is the new model version better than the champion? Decide from two measurements, then apply the verdict."""
