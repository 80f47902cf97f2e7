"""The five stages as jobs, and all of them in a run: read the configuration, call `pipelines`, write."""
