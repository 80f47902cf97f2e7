"""The flow on several hosts with real servers; `make test-cluster` runs it."""
