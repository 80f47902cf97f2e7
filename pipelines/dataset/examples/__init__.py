"""Documents to examples (tokens and targets): one file per task, named as in finetune/tasks; no torch."""
