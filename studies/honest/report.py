"""The honest test as files that can be committed and read as a referee would.

RESULTS/held_out/   held_out.json                        every forecast with its interval and truth, every baseline
                    report.md                            what was fitted, held out, beaten, and where a rule wins
                    predicted_against_measured.svg       held-out scores with their 80% intervals, by strategy
Leaves out: the numbers (`studies.honest.honest`), the words (`studies.honest.text`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mopdsim.validate.quality import validate
from studies.framework.analysis import Chart
from studies.framework.registry import LISTED, study
from studies.framework.report import draw
from studies.honest import reading
from studies.honest.baselines import own_expert, said
from studies.honest.held_out import Trial
from studies.honest.honest import Judged, contest_row, contests_left_out, strategies_left_out, summary, tested
from studies.honest.refit import shipped_path
from studies.honest.text import FIGURE, lines
from trainer.files.atomic import explained, write_json, write_text


def fit_all(
    folders: Mapping[str, Path], *, ship: bool, folder: Path | None, leave_out: bool, anew: bool = True
) -> dict[str, Any]:
    """Fit all committed studies and judge the fit on their held-out runs. ship: make it the calibration that forecasts
    use; folder: where the report goes, if anywhere; leave_out: also without each strategy and contest; anew: else the
    calibration that ships is judged."""
    test = tested(folders, anew=anew)
    if ship:
        write_json(shipped_path(), test.refit.document)
    found: dict[str, Any] = {"fit": test.about(), "held_out": test.document()}
    if folder is None or not test.trials:
        return found
    more = {}
    if leave_out:
        more["strategies"] = strategies_left_out(folders, test)
        more["contests"] = contests_left_out(folders, test)
    files = write(document(test, more), folder)
    return {"files": [str(path) for path in files], **found}


def document(test: Judged, left_out: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the report says, as JSON. left_out: what came of leaving out more than was held out."""
    inside = [trial for trial in test.trials if trial.in_set]
    published = validate()
    return {
        "fit": test.about(),
        "held_out": test.document(),
        "by_strategy": _grouped(inside, lambda trial: trial.cell.strategy),
        "by_study": _grouped(inside, lambda trial: trial.study),
        "contests": [contest_row(contest) for contest in test.contests],
        "left_out": dict(left_out),
        "published": {
            **{
                key: published[key]
                for key in ("by_study", "not_identified", "worse_than_rules", "back_test", "coverage_80")
            },
            **{key: published[key] for key in ("mean_error", "baseline_mean_errors", "normalised")},
        },
        "trials": [_trial_row(trial) for trial in test.trials],
        "reading": reading.read(inside, [contest for contest in test.contests if contest.held_out]),
        "released": {
            name: study(name).released for name in test.studies if name in LISTED and study(name).released
        },
    }


def write(found: Mapping[str, Any], folder: Path) -> list[Path]:
    """The three files of a document with held-out scores."""
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "held_out.json", found)
    rows = pd.DataFrame([row for row in found["trials"] if row["in_set"]])
    picture = draw(
        Chart(
            name=FIGURE,
            title="Held-out scores",
            frame=rows[["strategy", "measured", "predicted", "low", "high"]],
            x="measured",
            y="predicted",
            colour="strategy",
            panel="strategy",
            low="low",
            high="high",
            mark="point",
            diagonal=True,
        ),
        folder,
    )
    write_text(folder / "report.md", "\n".join(lines(found)) + "\n")
    return [folder / "held_out.json", folder / "report.md", picture]


def _grouped(trials: Sequence[Trial], of: Callable[[Trial], str]) -> dict[str, dict[str, Any]]:
    names = sorted({of(trial) for trial in trials})
    return {name: summary([trial for trial in trials if of(trial) == name]) for name in names}


def _trial_row(trial: Trial) -> dict[str, Any]:
    low, high = trial.interval
    return {
        "study": trial.study,
        "run": trial.run,
        "condition": trial.condition,
        "seed": trial.seed,
        "strategy": trial.cell.strategy,
        "domain": trial.cell.domain,
        "in_set": trial.in_set,
        "start": trial.cell.start[trial.cell.domain],
        "predicted": trial.median,
        "low": low,
        "high": high,
        "measured": trial.truth,
        "items": trial.items,
        "own_expert": said(own_expert, trial.cell),
    }
