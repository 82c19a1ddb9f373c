"""Files of a run: complete or absent directories, checkpoints, metrics, settings."""
