"""How fast and how large a step is, against peers and against the arithmetic alone."""
