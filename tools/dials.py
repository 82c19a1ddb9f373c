"""`python -m tools.dials`: mixed RL on two rivals along their ambiguity dial, measured beside forecast.

Mean score of `sort` and `sort_down` at temperature 1, over the seeds of the studies interference and conflict; the
forecast is told the start scores alone and made by the calibration that ships. Leaves out: other recipes, which the
studies' reports show.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mopdsim.belief.calibration import default_calibration
from mopdsim.recipes.stage import BASE, Rl
from studies.framework.observe import read
from studies.honest.trials import Forecaster

RESULTS = Path(__file__).parents[1] / "studies" / "results"
STUDIES = ("interference", "conflict")
PAIR = {"sort", "sort_down"}


def rows() -> Iterator[tuple[str, float, int, float, float]]:
    """Study, dial, runs, measured and forecast mean score of the pair."""
    found = {name: read(RESULTS / name) for name in STUDIES}
    told = Forecaster(studies=found, calibration=default_calibration())
    for study, own in found.items():
        by_dial: dict[float, list[tuple[float, float]]] = {}
        for name, row in own.finished.items():
            stage = own.recipe(name).stage[row["output"]]
            if (
                not isinstance(stage, Rl)
                or stage.init != BASE
                or row["factors"].get("kind", "ambiguity") != "ambiguity"
            ):
                continue
            if {domain.partition("?")[0] for domain in stage.domains} == PAIR:
                scores, drawn = own.scores(name), told.of(study, name)
                pair = [(scores[domain], float(np.median(drawn[domain]))) for domain in stage.domains]
                by_dial.setdefault(row["factors"]["dial"], []).append(tuple(np.mean(pair, axis=0)))
        for dial, pairs in sorted(by_dial.items()):
            measured, forecast = np.mean(pairs, axis=0)
            yield study, dial, len(pairs), float(measured), float(forecast)


def main() -> None:
    """Prints the table."""
    print("study         dial  runs  measured  forecast  points off")
    for study, dial, runs, measured, forecast in rows():
        off = 100 * (forecast - measured)
        print(f"{study:<12}  {dial:<4g}  {runs:<4}  {measured:.3f}     {forecast:.3f}     {off:+.1f}")


if __name__ == "__main__":
    main()
