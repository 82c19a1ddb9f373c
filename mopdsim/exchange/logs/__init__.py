"""Reading the logs of other engines: containers, keys, steps."""
