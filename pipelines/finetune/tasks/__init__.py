"""What is learned: one task per file, all of them in `table.TASKS`."""
