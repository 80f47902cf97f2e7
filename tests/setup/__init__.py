"""The set-up from nothing."""
