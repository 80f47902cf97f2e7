"""What is learned: one task per file, with the same names as in dataset/examples."""
