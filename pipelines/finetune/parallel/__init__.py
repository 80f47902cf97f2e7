"""How ranks work together: one strategy per file behind the members of `strategy.Strategy`."""
