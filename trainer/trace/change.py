"""The recipe change that takes a teacher's harm on a domain away, and what the simulator forecasts of it.

Where the harm comes by             the change is
  the domain's own routing          another teacher, the one that lifts right answers most; the start where none does
  misrouting                        none any more
  weights, the domain is nobody's   the start keeps the domain: it scores its prompts
  weights, the domain is another's  the verifier's reward is mixed in; off-policy the teacher is dropped
  a merge                           the teacher is dropped
A forecast knows the recipe's structure and amounts, not this run's teachers: it says what the change costs and what is
likely to be scored, not that the harm goes. That is measured by running the changed recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mopdsim.base.errors import MopdError
from mopdsim.recipes import recipe_file
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import AnyStage, Distill, Merge, Teacher
from trainer.trace.report import Harm, Report
from trainer.trace.subject import Subject

REWARD_MIX = 1.0
ROLLOUTS = 8  # of a prompt, where a reward is mixed in that compares them


@dataclass(frozen=True, kw_only=True)
class Change:
    """words: what is done. recipe: the changed one. forecast: P10, P50 and P90 of the domain's score before and after,
    of the difference and of the relative GPU-hours; `unknown` says why there is none."""

    harm: Harm
    words: str
    recipe: Recipe
    forecast: Mapping[str, Any]


def changes(subject: Subject, found: Report) -> list[Change]:
    """One for each harm that a change can take away, the worst first."""
    made = []
    for harm in found.harms:
        change = _without(subject, found, harm)
        if change is not None:
            words, recipe = change
            made.append(
                Change(
                    harm=harm, words=words, recipe=recipe, forecast=_forecast(subject, recipe, harm.domain)
                )
            )
    return made


def _without(subject: Subject, found: Report, harm: Harm) -> tuple[str, Recipe] | None:
    """What is done, and the recipe; None where the teacher is the last one."""
    stage, teacher, domain = subject.stages[-1], harm.teacher, harm.domain
    if isinstance(stage, Merge):
        return None if len(stage.inputs) == 1 else (f"drop {teacher}", _dropped(subject, teacher))
    if teacher in subject.teachers_of(domain):
        to = max((name for name in subject.teachers), key=lambda name: found.lift[name][domain].share)
        to = to if found.lift[to][domain].share > 0 else subject.start
        return f"route {domain} to {to} in place of {teacher}", _each(subject, _routed, domain, teacher, to)
    if stage.misrouting:
        return "set misrouting to 0", _each(subject, lambda s: s.model_copy(update={"misrouting": 0.0}))
    if domain not in stage.domains:
        return f"let {subject.start} keep {domain}: it scores its prompts", _each(
            subject, _kept, domain, subject.start
        )
    if stage.on_policy and not stage.reward_mix:
        return f"mix the verifier's reward in (reward_mix = {REWARD_MIX:g})", _rewarded(subject)
    return None if len(subject.teachers) == 1 else (f"drop {teacher}", _dropped(subject, teacher))


def _each(subject: Subject, change: Any, *arguments: Any) -> Recipe:
    """The recipe with every distillation of the student changed."""
    changed = {
        stage.name: change(stage, *arguments) for stage in subject.stages if isinstance(stage, Distill)
    }
    return _rebuilt(subject.recipe, changed)


def _routed(stage: Distill, domain: str, teacher: str, to: str) -> Distill:
    """A domain's prompts to another teacher."""
    served = [
        row
        if row.stage != teacher
        else row.model_copy(update={"domains": tuple(name for name in row.domains if name != domain)})
        for row in stage.teachers
    ]
    if to not in _serving(served, domain):
        served.append(Teacher(stage=to, domains=(domain,)))
    return _checked(stage, teachers=tuple(row for row in served if row.domains))


def _serving(served: list[Teacher], domain: str) -> list[str]:
    """Who serves a domain."""
    return [row.stage for row in served if domain in row.domains]


def _kept(stage: Distill, domain: str, start: str) -> Distill:
    """The start as a domain's teacher, with a mean share of the prompts."""
    share = sum(stage.domains.values()) / len(stage.domains)
    row = Teacher(stage=start, domains=(domain,))
    return _checked(stage, domains={**stage.domains, domain: share}, teachers=(*stage.teachers, row))


def _rewarded(subject: Subject) -> Recipe:
    """The reward mixed into the student's distillation: as many answers, to fewer prompts."""
    stage = subject.stages[-1]
    assert isinstance(stage, Distill)
    own = subject.recipe.amounts[stage.name]
    if own.rollouts_per_prompt < ROLLOUTS:
        answers = own.prompts_per_step * own.rollouts_per_prompt
        own = own.model_copy(
            update={"prompts_per_step": max(1, answers // ROLLOUTS), "rollouts_per_prompt": ROLLOUTS}
        )
    changed = _checked(stage, reward_mix=REWARD_MIX)
    return _rebuilt(subject.recipe, {stage.name: changed}, amounts={stage.name: own})


def _dropped(subject: Subject, teacher: str) -> Recipe:
    """Without a teacher; domains of its own go to the start."""
    changed: dict[str, AnyStage] = {}
    for stage in subject.stages:
        if isinstance(stage, Merge):
            kept = [place for place, name in enumerate(stage.inputs) if name != teacher]
            weights = tuple(stage.weights[place] for place in kept) if stage.weights else ()
            changed[stage.name] = _checked(
                stage, inputs=tuple(stage.inputs[place] for place in kept), weights=weights
            )
            continue
        rows = [row for row in stage.teachers if row.stage != teacher]
        orphans = tuple(name for name in stage.domains if not _serving(rows, name))
        rows += [Teacher(stage=subject.start, domains=orphans)] if orphans else []
        changed[stage.name] = _checked(stage, teachers=tuple(rows))
    return _rebuilt(subject.recipe, changed)


def _checked(stage: Any, **changes: Any) -> Any:
    """A stage with other fields, checked anew."""
    fields = {name: getattr(stage, name) for name in type(stage).model_fields}
    return type(stage).model_validate({**fields, **changes})


def _rebuilt(
    recipe: Recipe, changed: Mapping[str, AnyStage], amounts: Mapping[str, Any] | None = None
) -> Recipe:
    """The recipe with some stages replaced and those left out that nothing needs any more."""
    stages = tuple(changed.get(stage.name, stage) for stage in recipe.stages)
    draft = recipe.model_copy(update={"stages": stages})
    needed = {
        name
        for output in (recipe.output, *recipe.side_outputs)
        for name in (output, *draft.ancestors(output))
    }
    spent = {**recipe.amounts, **(amounts or {})}
    fields = {name: getattr(recipe, name) for name in Recipe.model_fields}
    return Recipe.model_validate(
        {
            **fields,
            "name": f"{recipe.name}_changed"[:40],
            "stages": tuple(stage for stage in stages if stage.name in needed),
            "amounts": {name: row for name, row in spent.items() if name in needed},
        }
    )


def _forecast(subject: Subject, recipe: Recipe, domain: str) -> dict[str, Any]:
    from mopdsim.forecast import scenario
    from mopdsim.forecast.forecast import forecast, quantiles

    try:
        before, after = (
            forecast(
                scenario.from_document(
                    {"recipe": recipe_file.to_document(each), "model": subject.resolved["model"]}
                )
            )
            for each in (subject.recipe, recipe)
        )
    except MopdError as error:
        return {"unknown": str(error)}
    place = before.world.index[domain]
    moved_N = after.likely_DN[after.world.index[domain]] - before.likely_DN[place]
    return {
        "before": before.score_intervals[domain],
        "after": after.score_intervals[domain],
        "difference": quantiles(moved_N),
        "gpu_hours_ratio": quantiles(after.gpu_hours_N / before.gpu_hours_N),
    }
