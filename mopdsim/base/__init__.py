"""What every part of the simulator stands on: errors, checks of values, array helpers, two processes. Knows of
nothing else."""
