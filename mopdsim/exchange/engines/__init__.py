"""One file an engine: what a stage is in its configuration, what it cannot say, what differs."""
