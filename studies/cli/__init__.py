"""The commands `mopd study` and `mopd demo`. Leaves out: what they run."""
