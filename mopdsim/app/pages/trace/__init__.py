"""Page Trace: which teacher made a run's student say this. Leaves out: every number, which `mopd trace` finds."""
