"""A recipe's graph as text: a Mermaid flowchart, which GitHub and Streamlit draw, and the same in words.

The chart names each stage and its kind. A plain arrow leads from the weights that a stage starts from; a dotted arrow
says what else it reads. `stage_rows` is the table beside it, with what each stage spends. Leaves out: colours (they are
the viewer's, light or dark).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mopdsim.base.numbers import count
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import BASE, parents, read

KINDS: Mapping[str, str] = {
    "sft": "SFT",
    "rl": "RL",
    "distill": "distillation",
    "reward_model": "reward model",
    "rejection_sampling": "rejection sampling",
    "preference": "DPO",
    "merge": "merging",
}
# what the reader says of the stage it reads, and what the arrow says
ROLES: Mapping[str, tuple[str, str]] = {
    "init": ("starts from", ""),
    "teacher": ("is taught by", "teaches"),
    "data": ("trains on answers of", "gives answers"),
    "reward": ("is judged by", "judges"),
    "input": ("takes in the weights of", "gives weights"),
}
_WIDE = 5  # stages in a row: a longer graph runs from top to bottom


def mermaid(recipe: Recipe) -> str:
    """The graph as a Mermaid flowchart: roots are round, datasets are drums, the output has a double frame.

    The description in words is for those who hear the page.
    """
    names = [*recipe.roots, *recipe.stage]
    # a name such as "end" is a word of Mermaid
    number = {name: f"s{place}" for place, name in enumerate(names)}
    lines = [f"flowchart {'LR' if _depth(recipe) <= _WIDE else 'TD'}"]
    lines.append(f"  accTitle: The stages of {recipe.name}")
    lines.append(f"  accDescr: {described(recipe)}")
    for name in recipe.roots:
        lines.append(f'  {number[name]}(["{name}"])')
    for stage in recipe.stages:
        before, after = "[", "]"
        if stage.kind == "rejection_sampling":
            before, after = "[(", ")]"
        elif stage.name == recipe.output:
            before, after = "[[", "]]"
        lines.append(f'  {number[stage.name]}{before}"{stage.name}<br>{KINDS[stage.kind]}"{after}')
    for (source, target), role in sorted(links(recipe).items(), key=lambda link: names.index(link[0][0])):
        said = ROLES[role][1]
        arrow = f"-. {said} .->" if said else "-->"
        lines.append(f"  {number[source]} {arrow} {number[target]}")
    return "\n".join(lines) + "\n"


def described(recipe: Recipe) -> str:
    """The graph in words, one sentence a stage."""
    by_role: dict[tuple[str, str], list[str]] = {}
    for (source, target), role in links(recipe).items():
        by_role.setdefault((target, role), []).append(source)
    sentences = []
    for stage in recipe.stages:
        told = [(words, by_role.get((stage.name, role))) for role, (words, _) in ROLES.items()]
        reads = ", ".join(f"{words} {', '.join(names)}" for words, names in told if names)
        sentences.append(f"{stage.name} ({KINDS[stage.kind]}) {reads}")
    return ". ".join(sentences) + f". The result is {recipe.output}."


def stage_rows(recipe: Recipe) -> list[dict[str, Any]]:
    """A row a stage: kind, what it starts from and reads, domains, steps and batch; None of what it does not spend."""
    rows = []
    for stage in recipe.stages:
        amounts = recipe.amounts.get(stage.name)
        reads = {role: names for role, names in read(stage).items() if role != "init" and names}
        rows.append({
            "stage": stage.name,
            "kind": KINDS[stage.kind],
            "starts from": stage.init or BASE,
            "reads": "; ".join(f"{role} {', '.join(names)}" for role, names in reads.items()),
            "domains": ", ".join(getattr(stage, "domains", ()) or recipe.domains),
            "steps": amounts.steps if amounts else None,
            "prompts a step": amounts.prompts_per_step if amounts else None,
            "rollouts a prompt": amounts.rollouts_per_prompt if amounts else None,
            "learning rate": count(amounts.learning_rate) if amounts else None,
        })  # fmt: skip
    return rows


def links(recipe: Recipe) -> dict[tuple[str, str], str]:
    """What each stage reads, by (source, stage): a role of `ROLES`."""
    found: dict[tuple[str, str], str] = {}
    for stage in recipe.stages:
        found |= {(name, stage.name): role for role, names in read(stage).items() for name in names}
        found[stage.init, stage.name] = "init"
    return found


def _depth(recipe: Recipe) -> int:
    """Stages on the longest path, the root included."""
    depth = dict.fromkeys(recipe.roots, 1)
    for stage in recipe.stages:
        depth[stage.name] = 1 + max(depth[name] for name in parents(stage))
    return max(depth.values())
