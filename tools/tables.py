"""`python -m tools.tables`: draws two tables anew: of parameters in docs/quality.md, from the calibration, and of
recipes and engines in docs/engines.md, from the code.

The second is worked out by exporting each recipe of the catalogue over three single-turn domains whose data and rewards
a tasks file names, at `small` amounts, Qwen3-8B on 64 H100. Leaves out: whether an engine's own code accepts the result
(the tests ask it)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mopdsim.base.numbers import count
from mopdsim.belief.calibration import Parameter, default_calibration
from mopdsim.exchange import export
from mopdsim.exchange.engines.parts import Job, Request
from mopdsim.exchange.tasks import tasks_of
from mopdsim.facts.domains import Estimate
from mopdsim.forecast.scenario import of_recipe
from mopdsim.plan.words import parameter as in_words
from mopdsim.recipes.catalogue import CATALOGUE
from mopdsim.recipes.stage import SMALLER

DOCS = Path(__file__).parents[1] / "docs"
START, END = "<!-- table: python -m tools.tables -->\n", "<!-- end of table -->"
_SCALES = {"normal": "", "student": "", "lognormal": " (ln)", "logit": " (logit)"}


def parameters() -> str:
    """A line a parameter: name, meaning, prior, what studies found, of tiny models and of small open ones, grade,
    source."""
    return "\n".join(_rows()) + "\n"


def _rows() -> Iterator[str]:
    yield "| parameter | what it says | prior (sd) | studies found (sd): tiny; small | grade | the prior rests on |"
    yield "|---|---|---|---|---|---|"
    for name, row in default_calibration().parameters.items():
        shown = [_shown(row.studies[scope], row) for scope in ("tiny", "small") if scope in row.studies]
        told = "; ".join(shown) or "not identified"
        cells = (f"`{name}`", in_words(name), _shown(row.prior, row), told, row.prior.grade, row.prior.source)
        yield f"| {' | '.join(cells)} |"


def _shown(estimate: Estimate, row: Parameter) -> str:
    return f"{count(estimate.value)} ({estimate.sd:.2g}{_SCALES[row.distribution]})"


DOMAINS = ("math", "code", "knowledge")
MODEL, WEIGHTS = "Qwen3-8B", "Qwen/Qwen3-8B"
SMALLER_MODEL, SMALLER_WEIGHTS = "Qwen3-1.7B", "Qwen/Qwen3-1.7B"
GPU, GPUS = "H100", 64
TOLD = {
    name: {
        "data": f"/data/{name}.jsonl",
        "reward": f"/rewards/{name}.py:grade",
        "agent": f"{name}_simple_agent",
    }
    for name in DOMAINS
}


def requests() -> Iterator[tuple[str, Request]]:
    """Each recipe of the catalogue by name, as a request."""
    for name in CATALOGUE:
        settings: dict[str, Any] = {
            "domains": list(DOMAINS),
            "model": MODEL,
            "gpu": GPU,
            "gpus": GPUS,
            "options": {"amounts": "small"},
        }
        probe = CATALOGUE[name](list(DOMAINS), amounts="small")
        if SMALLER in probe.roots:
            settings["smaller"] = SMALLER_MODEL
        scenario = of_recipe(name, **settings)
        weights = {root: SMALLER_WEIGHTS if root == SMALLER else WEIGHTS for root in scenario.recipe.roots}
        yield name, Request(scenario=scenario, weights=weights, tasks=tasks_of(scenario.domains, TOLD))


def cells(request: Request) -> dict[str, Mapping[str, Job | str]]:
    """By engine, each stage's job or the sentence that refuses it."""
    return {engine: export.attempts(request, engine) for engine in export.ENGINES}


def engines() -> str:
    """The table, and under it each refusal once, with its engines and the first stage that meets it."""
    lines = [
        f"| recipe | stages | {' | '.join(export.ENGINES)} |",
        f"|---|---|{'---|' * len(export.ENGINES)}",
    ]
    reasons: dict[tuple[str, str], tuple[str, list[str]]] = {}
    for name, request in requests():
        freely = cells(replace(request, approximate=True))
        found = []
        for engine, stages in cells(request).items():
            found.append(_cell(stages, freely[engine]))
            for stage, one in stages.items():
                if isinstance(one, str):
                    key, remedy = _parts(one, stage, engine)
                    _, engines = reasons.setdefault((key, remedy), (f"{name}/{stage}", []))
                    engines += [] if engine in engines else [engine]
        lines.append(f"| {name} | {len(request.recipe.stages)} | {' | '.join(found)} |")
    lines += ["", "| refused | by | the remedy it names | first met in |", "|---|---|---|---|"]
    for (key, remedy), (first, engines) in sorted(reasons.items()):
        lines.append(f"| {key} | {', '.join(engines)} | {remedy} | {first} |")
    return "\n".join(lines) + "\n"


def _cell(stages: Mapping[str, Job | str], freely: Mapping[str, Job | str]) -> str:
    said, more = (sum(isinstance(one, Job) for one in each.values()) for each in (stages, freely))
    words = {0: "-", len(stages): "all"}
    shown = words.get(said, f"{said} of {len(stages)}")
    return (
        shown
        if more == said
        else f"{shown}; {words.get(more, f'{more} of {len(stages)}')} with --approximate"
    )


def _parts(sentence: str, stage: str, engine: str) -> tuple[str, str]:
    """Key (with its value where that is one of few words) and remedy of a refusal."""
    said, _, remedy = sentence.removeprefix(f"stage {stage!r}: ").partition(f": {engine} cannot say this: ")
    key, _, value = said.partition(" = ")
    listed = key in ("kind", "loss", "on_policy", "algorithm", "balance")
    return f"`{key} = {value}`" if listed else f"`{key}`", remedy


TABLES: Mapping[str, Callable[[], str]] = {"quality.md": parameters, "engines.md": engines}


def drawn(page: str) -> str:
    """A page with its table as it is now."""
    before, _, rest = (DOCS / page).read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{TABLES[page]()}\n{END}{after}"


def main() -> None:
    """Writes the pages."""
    for page in TABLES:
        (DOCS / page).write_text(drawn(page), encoding="utf-8")
        print(page)


if __name__ == "__main__":
    main()
