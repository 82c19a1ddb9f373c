"""`python -m tools.afterwards STUDY ...`: forecasts on record judged beside those of the calibration that ships now.

Errors, intervals and what a choice loses, at temperature 1 and greedy; without a name, of every study that foretold.
What ships now has seen some of these runs, so that it looks back. Leaves out: runs that no forecast was made of.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from studies.framework.forecasts import FILE, read_all
from studies.framework.observe import read
from studies.framework.registry import RESULTS
from studies.framework.registry import study as study_of
from studies.honest.prospective import afterwards, judged


def lines(study: str) -> Iterator[str]:
    """What the study's report says of its forecasts, on record and looked back. NotFoundError for a study without."""
    found, counted = read(RESULTS / study), study_of(study).failures_count
    for record in read_all(RESULTS / study):
        for words, forecasts in (("on record", record), ("that ships", afterwards(found, record))):
            result = judged(found, forecasts, failures_count=counted)
            yield from (f"{study}, {words}: {finding}" for finding in result.findings)
            for table in result.tables:
                if "choice" in table.title:
                    yield f"{study}, {words}: {table.title}\n{table.frame.round(2).to_string(index=False)}"


def main() -> None:
    """Prints the lines of the studies named, or of all."""
    for study in sys.argv[1:] or sorted(path.parent.name for path in RESULTS.glob(f"*/{FILE}")):
        print(*lines(study), sep="\n", flush=True)


if __name__ == "__main__":
    main()
