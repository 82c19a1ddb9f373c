"""The picture of a recipe: well-formed, complete, nothing overlaps, readable without colour and in the dark."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET
from typing import NamedTuple

import pytest

from mopdsim.recipes import catalogue, draw
from mopdsim.recipes.recipe import Recipe

SVG = "{http://www.w3.org/2000/svg}"
DOMAINS = ["sort", "reverse", "shift", "swap", "brackets", "rle_decode"]
MADE = {name: catalogue.recipe(name, DOMAINS) for name in catalogue.CATALOGUE}
MADE["wide"] = catalogue.recipe("mopd", [f"sort?length={low}-9" for low in range(1, 9)])
MADE["smaller"] = catalogue.recipe("deepseek_r1", DOMAINS, smaller=True)


class Box(NamedTuple):
    x: float
    y: float
    width: float
    height: float


def boxes(root: ET.Element) -> dict[str, Box]:
    """The rectangle of every stage and root, by its name."""
    found = {}
    for group in root.iter(f"{SVG}g"):
        rect = group.find(f"{SVG}rect")
        text = group.find(f"{SVG}text")
        assert rect is not None and text is not None and text.text
        found[text.text] = Box(*(float(rect.attrib[key]) for key in Box._fields))
    return found


def points(path: str) -> list[tuple[float, float]]:
    numbers = [float(number) for number in path.translate(str.maketrans("MCL", "   ")).split()]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def links(root: ET.Element) -> list[ET.Element]:
    return [path for path in root.iter(f"{SVG}path") if "marker-end" in path.attrib]


@pytest.mark.parametrize("recipe", MADE.values(), ids=MADE)
def test_every_stage_and_link_is_drawn_once_and_nothing_overlaps(recipe: Recipe) -> None:
    root = ET.fromstring(draw.svg(recipe))
    graph, drawn = recipe.graph(), boxes(root)
    assert set(drawn) == set(graph) and len(links(root)) == graph.number_of_edges()
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for box in drawn.values():
        assert box.x >= 0 and box.y >= 0 and box.x + box.width <= width and box.y + box.height <= height
    for one, other in itertools.combinations(drawn.values(), 2):
        apart_x = one.x + one.width < other.x or other.x + other.width < one.x
        apart_y = one.y + one.height < other.y or other.y + other.height < one.y
        assert apart_x or apart_y


@pytest.mark.parametrize("recipe", MADE.values(), ids=MADE)
def test_links_join_their_stages_and_pass_beside_the_others(recipe: Recipe) -> None:
    root = ET.fromstring(draw.svg(recipe))
    drawn = boxes(root)
    for (source, target), link in zip(recipe.graph().edges(), links(root), strict=True):
        corners = points(link.attrib["d"])
        assert touches(drawn[source], corners[0]) and touches(drawn[target], corners[-1])
        through = [box for name, box in drawn.items() if name not in (source, target)]
        assert not any(inside(box, corner) for box in through for corner in corners[3::3])


def touches(box: Box, point: tuple[float, float]) -> bool:
    x, y = point
    return box.x - 6 <= x <= box.x + box.width + 6 and box.y - 6 <= y <= box.y + box.height + 6


def inside(box: Box, point: tuple[float, float]) -> bool:
    x, y = point
    return box.x < x < box.x + box.width and box.y < y < box.y + box.height


def test_roles_differ_without_colour_and_the_legend_names_those_present() -> None:
    dashes = [dash for _, dash, _ in draw.ROLES.values()]
    assert len(set(dashes)) == len(dashes)
    text = draw.svg(MADE["llama3"])
    assert "is judged by" in text and "trains on answers of" in text and "is taught by" not in text


def test_the_picture_speaks_and_reaches_out_to_nothing() -> None:
    recipe = MADE["deepseek_r1"]
    text = draw.svg(recipe)
    root = ET.fromstring(text)
    title, description = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert root.attrib["role"] == "img" and title is not None and description is not None
    assert root.attrib["aria-labelledby"] == f"{title.attrib['id']} {description.attrib['id']}"
    assert all(stage.name in (description.text or "") for stage in recipe.stages)
    assert text.count("http") == 1 and "prefers-color-scheme:dark" in text


def test_the_same_recipe_gives_the_same_text() -> None:
    assert draw.svg(MADE["nemotron3_ultra"]) == draw.svg(catalogue.recipe("nemotron3_ultra", DOMAINS))
