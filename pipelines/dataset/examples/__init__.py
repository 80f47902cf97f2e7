"""Documents to examples: tokens, targets and segments. One file per task, with the same name as in
finetune/tasks; no torch."""
