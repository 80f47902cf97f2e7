"""The shell around the stage jobs: command line, settings, plans, progress, doctor."""
