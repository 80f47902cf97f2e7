"""Tests of pipelines.finetune.search."""
