"""What every part of the simulator stands on: errors, documents and checks of their values, array helpers, two
processes. Knows of nothing else."""
