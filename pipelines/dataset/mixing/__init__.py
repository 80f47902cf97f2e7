"""Which source the training reads at each position, and which of its rows: mixtures and curricula."""
