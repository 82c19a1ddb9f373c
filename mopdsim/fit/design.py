"""The minimal experiment of three domains on one small base: which runs tell the parameters apart, before any is run.

Specialists with their whole curve, pairs, the triple, other shares, both orders of a cascade, distillation from one
teacher and from several (balanced, misrouted, with reward, off-policy, from half-trained teachers), merges.
Leaves out: scores (`mopdsim.fit.recovery` makes them up), held-out runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import combinations

from mopdsim.fit.forest import Point, Run, Score, Tree, spent, trees_of
from mopdsim.forecast import scenario
from mopdsim.forecast.stage_draws import bill_of, machine_of
from mopdsim.quality.walk import Effort
from mopdsim.recipes import catalogue
from mopdsim.recipes.recipe import BASE, Merge, Recipe, Rl
from mopdsim.recipes.recipe_file import to_document
from mopdsim.recipes.stage import renamed

DOMAINS = ("sort", "reverse", "shift")
SEEDS = (0, 1)
CURVE_POINTS, WAY_ITEMS, END_ITEMS = 10, 200, 500
LONG, SHORT = 96, 24  # steps of a specialist to three midpoints, of one stopped early


def minimal_experiment() -> tuple[Tree, ...]:
    """A tree for each seed, its scores all nil."""
    runs: list[Run] = []
    efforts: dict[str, Effort] = {}
    points: dict[str, tuple[Point, ...]] = {}
    for seed in SEEDS:
        for number, recipe in enumerate(_recipes(both=seed == SEEDS[0])):
            keys = _keys(recipe, seed)
            runs.append(Run(name=f"{recipe.name}{number}/seed{seed}", recipe=recipe, keys=keys))
            efforts |= {keys[name]: effort for name, effort in planned_efforts(recipe).items()}
            points[keys[BASE]] = (_point(BASE, None),)
            for stage in recipe.stages:
                key = keys[stage.name]
                whole = None if isinstance(stage, Merge) else efforts[key]
                points[key] = (
                    *_way(key, whole, isinstance(stage, Rl)),
                    _point(key, None, is_rl=isinstance(stage, Rl)),
                )
    return trees_of(runs, efforts, points)


def planned_efforts(recipe: Recipe) -> dict[str, Effort]:
    """What each stage of a recipe will spend, as the forecast counts it."""
    asked = scenario.from_document({"recipe": to_document(recipe)})
    found = {}
    for stage in asked.recipe.stages:
        if not isinstance(stage, Merge):
            bill = bill_of(asked, stage, gpus=1)
            active = machine_of(asked, stage).model.active_parameters
            found[stage.name] = spent(bill.training_run_flops / active, bill.gradient_tokens)
    return found


def _recipes(*, both: bool) -> Iterator[Recipe]:
    """The runs of one seed; the second repeats what tells the seeds' spread."""
    for domain in DOMAINS:
        yield _over(catalogue.single_domain([domain]))
    yield _over(catalogue.mixed_rl(DOMAINS))
    yield _over(catalogue.mopd(DOMAINS))
    yield _over(catalogue.mopd(DOMAINS, balance="token_share"))
    if not both:
        return
    for pair in combinations(DOMAINS, 2):
        yield _over(catalogue.mixed_rl(pair))
    yield _over(catalogue.mixed_rl(DOMAINS, shares=dict(zip(DOMAINS, (3.0, 1.0, 1.0), strict=True))))
    yield _over(catalogue.cascade_rl(DOMAINS))
    yield _over(catalogue.cascade_rl(DOMAINS, order=DOMAINS[::-1]))
    yield _over(catalogue.cascade_rl(DOMAINS, replay=0.2))
    for domain in DOMAINS:
        yield _over(catalogue.mopd([domain]))
    yield _over(catalogue.mopd(DOMAINS, misrouting=0.2))
    yield _over(catalogue.mopd(DOMAINS, reward_mix=0.5))
    yield _over(catalogue.mopd(DOMAINS), specialist_steps=SHORT)
    yield _over(catalogue.off_policy(DOMAINS))
    for scale in (0.3, 0.5, 0.8):
        yield _over(catalogue.merge(DOMAINS, scale=scale))


def _over(recipe: Recipe, *, specialist_steps: int = LONG) -> Recipe:
    """The recipe in the world of all domains, its RL as long as asked."""
    steps = {
        stage.name: amounts.model_copy(update={"steps": specialist_steps})
        for stage in recipe.stages
        if isinstance(stage, Rl) and (amounts := recipe.amounts[stage.name])
    }
    return recipe.with_amounts(steps).model_copy(update={"domains": DOMAINS})


def _keys(recipe: Recipe, seed: int) -> dict[str, str]:
    """A key for each stage, the same for the same work in another recipe."""
    keys = {BASE: f"base{seed}"}
    for stage in recipe.stages:
        made_from = renamed(stage, {**keys, BASE: BASE, stage.name: "self"}).model_dump_json(exclude={"name"})
        amounts = recipe.amounts.get(stage.name)
        text = f"{made_from}{amounts and amounts.model_dump_json()}{seed}"
        keys[stage.name] = hashlib.blake2b(text.encode(), digest_size=10).hexdigest()
    return keys


def _way(key: str, whole: Effort | None, is_rl: bool) -> Iterator[Point]:
    """Points on the way to a stage's end."""
    if whole is None:
        return
    count = CURVE_POINTS if is_rl else 3
    for turn in range(1, count):
        share = turn / count
        yield _point(key, spent(float(whole.compute_N[0]) * share, float(whole.tokens_N[0]) * share))


def _point(key: str, effort: Effort | None, *, is_rl: bool = False) -> Point:
    items = END_ITEMS if effort is None else WAY_ITEMS
    scores = tuple(Score(domain=name, passed=0.0, n=items) for name in DOMAINS)
    return Point(stage=key, effort=effort, scores=scores, kl=1.0 if is_rl else None)
