"""Tests that start processes of their own: kill, cluster, serve, notebook."""
