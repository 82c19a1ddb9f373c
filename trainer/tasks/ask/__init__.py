"""Short questions in plain English with exact answers, generated."""
