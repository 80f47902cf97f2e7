"""Tests of whole flows that start processes: kill, cluster, notebook."""
