"""Files -> records. One format a module, in plain Python without Spark; `files` runs them on the executors."""
