"""A real Spark Connect server, and the flow as its client."""
