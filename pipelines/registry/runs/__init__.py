"""The MLflow run of a training: its inputs, metrics and environment, and which run is the current one."""
