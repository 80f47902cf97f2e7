"""How ranks work together: one strategy a file behind the members of `strategy.Strategy`."""
