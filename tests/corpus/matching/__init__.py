"""Word lists, and decontamination against evaluation sets."""
