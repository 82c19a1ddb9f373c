"""A run's results for people: a table (text and CSV), curves as PNG, scores of any model directory."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mopdsim.base import run_directory as files
from mopdsim.base.errors import NotFoundError, UsageError
from trainer.files.settings import settings_of

FORMULA = ("=", "+", "-", "@")
# Of a model, a judge, a dataset.
FIGURES = {"pass_rate": "score", "accuracy": "accuracy", "best_score": "best score"}


def figure_of(domains: Mapping[str, Mapping[str, Any]]) -> str:
    """The key of what a stage's rows by domain stand for."""
    return next(key for key in FIGURES if any(key in row for row in domains.values()))


def mean_figure(domains: Mapping[str, Mapping[str, Any]]) -> str:
    """Its mean over the domains that have one, in words."""
    key = figure_of(domains)
    values = [row[key] for row in domains.values() if row[key] is not None]
    return f"mean {FIGURES[key]} " + (f"{sum(values) / len(values):.3f}" if values else "-")


def summary_text(summary: Mapping[str, Any]) -> str:
    """Each stage's figure by domain with what it cost: a model's score, a reward model's accuracy, or the score of a
    dataset's best answers."""
    stages = summary["stages"]
    domains = list(next(iter(stages.values()))["domains"])
    heads = [f"{'stage':<18} {'figure':<10}", *(f"{domain[:15]:>15}" for domain in domains)]
    lines = [" ".join([*heads, f"{'TFLOP':>9} {'seconds':>8}"])]
    for name, row in stages.items():
        key = figure_of(row["domains"])
        cells = [f"{_cell(row['domains'].get(domain, {}), key):>15}" for domain in domains]
        spent = sum(value for phase, value in row["flops"].items() if phase != "evaluation") / 1e12
        cost = f"{spent:9.3f} {row['wall_seconds']:8.1f}"
        lines.append(" ".join([f"{name:<18} {FIGURES[key]:<10}", *cells, cost]))
        for figure, words in more_figures(row["domains"]).items():
            others = [f"{_cell(row['domains'].get(domain, {}), figure):>15}" for domain in domains]
            lines.append(" ".join([f"{'':<18} {words:<10}", *others]))
    lines.append(
        f"run {summary['run']}: {summary['seconds']:.1f} s, weights sha256 {summary['weights_sha256'][:16]}"
    )
    return "\n".join(lines)


def more_figures(domains: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Figures measured beside a model's score, with their words; full marks where a score is partly credit."""
    rows = domains.values()
    return {
        key: words
        for key, words in (("full", "full marks"), ("greedy", "greedy"), ("pass_8", "pass@8"))
        if any(key in row and (key != "full" or row[key] != row["pass_rate"]) for row in rows)
    }


def _cell(row: Mapping[str, Any], key: str) -> str:
    value, error = row.get(key), row.get({"greedy": "greedy_se"}.get(key, "se"))
    if value is None:
        return "-"
    return f"{value:.3f}" if key in ("full", "pass_8") else f"{value:.3f} ±{error:.3f}"


def score_table(scores: Mapping[str, Mapping[str, float]]) -> str:
    """One model's scores by domain."""
    return "\n".join(
        f"{domain:<24} {row['pass_rate']:.3f} ±{row['se']:.3f}  n {row['n']}  length {row['length']:.1f}  "
        f"truncated {row['truncated']:.1%}"
        + "".join(f"  {words} {_cell(row, key)}" for key, words in more_figures({domain: row}).items())
        for domain, row in scores.items()
    )


def write_table(directory: Path, summary: Mapping[str, Any]) -> list[Path]:
    """tables/scores.csv: a row per stage and domain; cells of what its kind does not measure are empty.

    Cells that a spreadsheet would run as formulas are escaped.
    """
    path = directory / "tables" / "scores.csv"
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        fields = (*FIGURES, "se", "n", "full", "greedy", "pass_8", "length", "truncated", "entropy")
        writer.writerow(["stage", "kind", "domain", *fields, *(f"flops_{phase}" for phase in files.PHASES)])
        for name, row in summary["stages"].items():
            for domain, score in row["domains"].items():
                measured, spent = map(score.get, fields), (row["flops"][p] for p in files.PHASES)
                cells = [name, row["kind"], domain, *measured, *spent]
                writer.writerow(
                    [f"'{c}" if isinstance(c, str) and c.startswith(FORMULA) else c for c in cells]
                )
    return [path]


def draw_curves(directory: Path) -> list[Path]:
    """plots/scores.png: scores by stage (validation prompts, at the end the test prompts); plots/training.png: loss,
    reward and gradient norm by step."""
    import altair as alt
    import pandas as pd

    rows = list(files.rows_of(directory / files.METRICS, of_run=True))
    scores = pd.DataFrame(files.scores_in(rows), columns=["stage", "step", "domain", "pass rate", "se"])
    training = pd.DataFrame(files.curves_in(rows), columns=["stage", "step", "quantity", "value"])
    folder = directory / "plots"
    folder.mkdir(exist_ok=True)
    drawn = []
    for name, frame, y, facet in (
        ("scores", scores, "pass rate", "stage"),
        ("training", training, "value", "quantity"),
    ):
        if frame.empty:
            continue
        color = "domain" if name == "scores" else "stage"
        chart = (
            alt.Chart(frame)
            .mark_line(point=name == "scores")
            .encode(x=alt.X("step:Q"), y=alt.Y(f"{y}:Q"), color=alt.Color(f"{color}:N"))
            .properties(width=240, height=160)
            .facet(facet=alt.Facet(f"{facet}:N", title=None, sort=list(frame[facet].unique())), columns=3)
            .resolve_scale(x="independent", y="shared" if name == "scores" else "independent")
        )
        drawn.append(folder / f"{name}.png")
        chart.save(drawn[-1], scale_factor=2)
    return drawn


def evaluate_directory(
    directory: Path,
    *,
    domains: Sequence[str],
    items: int,
    temperature: float,
    samples_per_prompt: int | None,
    device: str,
    dtype: Literal["auto", "float32", "bfloat16"],
    report: Callable[[str], None],
) -> dict[str, dict[str, float]]:
    """Scores of a run's final model, or of any model directory on the domains named: sampled, pass@8 from 8 samples a
    prompt on, and greedy on the same prompts. A run's model reads its prompts as the run did, and answers as often."""
    from trainer.batch.evaluate import BEST_OF, evaluate
    from trainer.batch.meter import Meter
    from trainer.files.atomic import read_json, read_summary
    from trainer.model.loading import check_device, load_policy
    from trainer.model.sources import model_directory
    from trainer.runs.compute import check_dtype, resolve_dtype
    from trainer.runs.plan import BUILT_IN
    from trainer.tasks import task

    chat = None
    if (directory / files.RESOLVED).is_file():
        weights = directory / files.WEIGHTS
        if not weights.is_dir():
            raise NotFoundError(
                f"{directory}: the run has no final weights yet; finish it with `mopd train resume`"
            )
        domains = domains or list(read_summary(directory)["scores"])
        chat = settings_of(read_json(directory / files.RESOLVED, "settings"), directory)
        samples_per_prompt = samples_per_prompt or chat.samples_per_prompt
    elif str(directory) in BUILT_IN and not directory.exists():
        raise UsageError(f"model {str(directory)!r}: every run trains its own: give the --out of one")
    else:
        weights = model_directory(str(directory))
    if not domains:
        raise UsageError("domains: none given, and a model directory names none; add --domains a,b,c")
    tasks = {spec: task(spec) for spec in domains}
    check_device(device)
    settled = resolve_dtype(dtype, model=str(weights), device=device)
    check_dtype(settled, device)
    policy = load_policy(weights, device=device, dtype=settled, chat=chat)
    return evaluate(
        policy,
        tasks,
        split="test",
        items=items,
        temperature=temperature,
        references={},
        meter=Meter(),
        report=report,
        samples_per_prompt=(samples_per_prompt or BEST_OF) if temperature else 1,
        greedy_items=items if temperature else 0,
    )
