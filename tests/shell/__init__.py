"""The shell of the jobs."""
