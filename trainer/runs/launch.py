"""Start a run in several processes of this machine, with torch's own launcher, and take it up again if one is killed.

Across machines `torchrun -m trainer run ...` is started on each of them, all of which see the run directory and the
store. Leaves out: what the processes share (`trainer.model.processes`).
"""

from __future__ import annotations

import logging
import signal
import sys
import uuid
from collections.abc import Sequence

from mopdsim.base.errors import Interrupted
from trainer.runs.execute import ATTEMPTS


def launch(processes: int, arguments: Sequence[str], *, resume: str) -> int:
    """`mopd train ARGUMENTS` in as many processes; the exit code of the first that fails, 0 where none does.

    A process that a signal ends takes the others with it, and all go on from the last checkpoint, `ATTEMPTS` times in
    all. Raises Interrupted, with the command `resume` that goes on, where they were stopped or killed too often.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    for attempt in range(1, ATTEMPTS + 1):
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            monitor_interval=0.1,
        )
        try:
            elastic_launch(config, sys.executable)("-m", "trainer", *arguments)
            return 0
        except ChildFailedError as error:
            codes = [int(failure.exitcode) for failure in error.failures.values()]
            if not any(
                code < 0 and code != -signal.SIGTERM for code in codes
            ):  # the launcher ends the others so
                return next((code for code in codes if code > 0), 1)
        except (SignalException, KeyboardInterrupt):
            raise Interrupted(f"it was stopped, and what is finished is kept: `{resume}` goes on") from None
        if attempt < ATTEMPTS:
            print(
                f"  a process was killed; attempt {attempt + 1} goes on from the last checkpoint",
                file=sys.stderr,
                flush=True,
            )
    raise Interrupted(f"a process was killed {ATTEMPTS} times; `{resume}` goes on from the last checkpoint")
