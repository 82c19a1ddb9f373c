"""`python -m mopdsim.cli` is the command `mopd`."""

from mopdsim.cli.main import main

main()
