"""Are the intervals honest? Parameters drawn from the prior, observations simulated of a design, then fitted.

    python -m mopdsim.fit.recovery [--repeats 100] [--data OBSERVATIONS.csv ...] [--out FILE]

The design is that of the runs behind observations (amounts spent and prompts scored are kept, scores are made up);
where none are given, of three studies: of curves, of students and of cascades. Leaves out: errors that are no error of
a stage and domain, such as a wrong curve.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mopdsim.base.arrays import Array, logistic
from mopdsim.belief.calibration import DEGREES, default_calibration, in_logits
from mopdsim.fit.forest import RESULTS, Tree, load
from mopdsim.fit.latents import SPREADS, Latents, latents_of
from mopdsim.fit.posterior import Posterior, fit
from mopdsim.fit.predict import KL_SD, observed, ordered, predict
from mopdsim.fit.quality import LEAST_LEARNED

LEVEL, QUANTILE = 0.9, 1.6448536269514722  # of the intervals, two-sided, and of the standard normal
STARTS = 3
DESIGN = tuple(RESULTS / study / "observations.csv" for study in ("gain", "cap", "cascade"))


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """One simulated experiment: by parameter whether its interval held the truth, how much was learned of it."""

    held: dict[str, bool]
    learned: dict[str, float]
    settled: bool


def recover(trees: Sequence[Tree], *, repeats: int, seed: int) -> dict[str, Any]:
    """How often the intervals held the truth, in all and by parameter."""
    latents = latents_of(trees, default_calibration())
    found = []
    for turn in range(repeats):
        found.append(repeat(latents, np.random.default_rng([seed, turn])))
        print(f"\r{turn + 1} of {repeats}", end="\n" if turn + 1 == repeats else "", file=sys.stderr)
    return summary(found)


def repeat(latents: Latents, rng: np.random.Generator) -> Repeat:
    """Draw a truth, simulate, fit, compare."""
    truth_L, errors = drawn(latents, rng)
    trees = simulated(latents, truth_L, errors, rng)
    posterior = fit(replace(latents, trees=trees), starts=STARTS)
    return Repeat(
        held=held(posterior, truth_L),
        learned=dict(zip(latents.index, posterior.learned_L.tolist(), strict=True)),
        settled=posterior.settled,
    )


def drawn(latents: Latents, rng: np.random.Generator) -> tuple[Array, float]:
    """A truth from the prior, and the spread of the errors of the model form. A base's start is drawn as the table
    has it, not as widely as the fit allows."""
    middle, sd = SPREADS["error"]
    error = middle * np.exp(sd * rng.standard_normal())
    noise_L = rng.standard_normal(len(latents.entries))
    sd_L = latents.sd_L.copy()
    for place, latent in enumerate(latents.entries):
        if latent.tree is not None:
            sd_L[place] = in_logits(latents.trees[latent.tree].domains[latent.domain].start).sd
    return latents.mean_L + sd_L * noise_L, float(error)


def simulated(latents: Latents, truth_L: Array, error: float, rng: np.random.Generator) -> tuple[Tree, ...]:
    """The forest with scores as this truth would give them."""
    seen = observed(latents.trees)
    expected_M = predict(latents, truth_L[:, None])[:, 0]
    error_E = np.append(error * rng.standard_t(DEGREES, len(seen.series)), 0.0)
    shown = iter(expected_M + error_E[seen.series_M])
    trees = []
    for tree in latents.trees:
        points = []
        for point in ordered(tree):
            scores = tuple(
                replace(score, passed=float(rng.binomial(score.n, logistic(next(shown)))))
                for score in point.scores
            )
            kl = None if point.kl is None else float(np.exp(next(shown) + KL_SD * rng.standard_normal()))
            points.append(replace(point, scores=scores, kl=kl))
        trees.append(replace(tree, points=tuple(points)))
    return tuple(trees)


def held(posterior: Posterior, truth_L: Array) -> dict[str, bool]:
    """By parameter: constants and facts of domains."""
    latents, found = posterior.latents, {}
    for place, latent in enumerate(latents.entries):
        if latent.tree is not None:
            continue
        apart = abs(posterior.x_L[place] - truth_L[place])
        found[latent.name] = bool(apart <= QUANTILE * posterior.sd_L[place])
    return found


def summary(found: Sequence[Repeat]) -> dict[str, Any]:
    """Shares of intervals that held the truth: where the design says anything of a parameter, and by parameter."""
    learned = {name: float(np.mean([one.learned[name] for one in found])) for name in found[0].held}
    rows = {
        name: {"coverage": float(np.mean([one.held[name] for one in found])), "learned": learned[name]}
        for name in found[0].held
    }
    informed = [name for name, row in rows.items() if row["learned"] >= LEAST_LEARNED]
    return {
        "repeats": len(found),
        "settled": sum(one.settled for one in found),
        "level": LEVEL,
        "coverage": float(np.mean([rows[name]["coverage"] for name in informed])),
        "parameters": len(informed),
        "not_identified": [name for name in rows if name not in informed],
        "by_parameter": dict(sorted(rows.items(), key=lambda row: row[1]["coverage"])),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the document, or write it."""
    parser = argparse.ArgumentParser(prog="python -m mopdsim.fit.recovery", description=__doc__)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--data", type=Path, nargs="+", default=DESIGN, help="observations whose design is used"
    )
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    found = recover(load(given.data)[0], repeats=given.repeats, seed=given.seed)
    text = json.dumps(found, indent=1)
    print(text) if given.out is None else given.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
