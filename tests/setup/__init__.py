"""Tests of tools/ and the Makefile."""
