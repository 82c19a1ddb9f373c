"""Studies of model size, and the shapes and timings they need."""
