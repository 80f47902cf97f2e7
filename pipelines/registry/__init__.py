"""One training = one MLflow run: what it read, how it went, which model version came of it, and which version is champion."""
