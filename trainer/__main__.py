"""`torchrun -m trainer run ...`: `mopd train` as one of several processes that a launcher started.

Process 0 speaks. What another one says, a failure of its own, is shown where it outlives the others.
"""

from __future__ import annotations

import contextlib
import io
import sys
import time

from mopdsim.cli.main import main as mopd
from trainer.model.processes import launched

PATIENCE = 3.0  # seconds in which the launcher ends this process if process 0 failed alike


def main() -> None:
    """`mopd train` with this command line."""
    sys.argv = ["mopd", "train", *sys.argv[1:]]
    if launched()[0] == 0:
        mopd()
        return
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            mopd()
    except BaseException as error:
        if not isinstance(error, SystemExit) or error.code:
            time.sleep(PATIENCE)
            print(said.getvalue(), end="", file=sys.stderr, flush=True)
        raise


if __name__ == "__main__":
    main()
