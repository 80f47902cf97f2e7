"""Tests of pipelines.finetune.queue."""
