"""The flow on several hosts with real servers. What each file starts is in its docstring; `make test-cluster` runs all."""
