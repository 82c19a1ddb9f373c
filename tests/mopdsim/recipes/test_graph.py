"""A recipe's graph as Mermaid text: every stage and link is there once, and the words name them all."""

from __future__ import annotations

import re

import pytest

from mopdsim.recipes import catalogue, graph
from mopdsim.recipes.recipe import Recipe

DOMAINS = ["sort", "reverse", "shift", "swap", "brackets", "rle_decode"]
MADE = {name: catalogue.recipe(name, DOMAINS) for name in catalogue.CATALOGUE}
MADE["smaller"] = catalogue.recipe("deepseek_r1", DOMAINS, smaller=True)
ROLE_OF_ARROW = {said: role for role, (_, said) in graph.ROLES.items()}


def read_back(text: str) -> tuple[dict[str, str], set[tuple[str, str, str]]]:
    """Kind words by name, and links as (source, target, role), of a chart."""
    boxes = re.findall(r'^  (s\d+)\W+?"([^"<]*)(?:<br>([^"]*))?"', text, re.M)
    name = {key: called for key, called, _ in boxes}
    arrows = re.findall(r"^  (s\d+) (?:-->|-\. (.+) \.->) (s\d+)$", text, re.M)
    links = {(name[source], name[target], ROLE_OF_ARROW[said]) for source, said, target in arrows}
    assert len(name) == len(boxes) and len(links) == len(arrows)
    return {called: kind for _, called, kind in boxes}, links


@pytest.mark.parametrize("recipe", MADE.values(), ids=MADE)
def test_every_stage_and_link_is_in_the_chart_once(recipe: Recipe) -> None:
    kinds, links = read_back(graph.mermaid(recipe))
    assert kinds == {
        **dict.fromkeys(recipe.roots, ""),
        **{stage.name: graph.KINDS[stage.kind] for stage in recipe.stages},
    }
    assert links == {(*pair, role) for pair, role in graph.links(recipe).items()}


@pytest.mark.parametrize("recipe", MADE.values(), ids=MADE)
def test_the_words_say_each_stage_and_stand_in_the_chart_on_one_line(recipe: Recipe) -> None:
    words = graph.described(recipe)
    assert all(f"{stage.name} ({graph.KINDS[stage.kind]}) starts from" in words for stage in recipe.stages)
    assert words.endswith(f"The result is {recipe.output}.")
    assert f"\n  accDescr: {words}\n" in graph.mermaid(recipe)


def test_long_chains_run_down_the_page_and_short_ones_across() -> None:
    assert graph.mermaid(MADE["mopd"]).startswith("flowchart LR\n")
    assert graph.mermaid(MADE["llama3"]).startswith("flowchart TD\n")
