"""One training, one MLflow run: what it read, how it went, where it ran."""
