"""Facts: GPUs, models and their layers, domains. The tables are in `mopdsim/data`. Leaves out: what follows from
them."""
