"""Imports point down: one table of who may import what, read from every file's syntax tree."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED_OF_MOPDSIM = {"errors", "amounts", "recipe", "stage", "recipe_file", "recipes", "model", "hardware"}
FORBIDDEN = {
    "mopdsim": {"torch", "transformers", "trainer", "studies", "trl", "streamlit"},
    "trainer": {"studies", "streamlit"},
    "studies": {"streamlit"},
}
FILES = sorted(path for layer in FORBIDDEN for path in (ROOT / layer).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Full names of the modules a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    parts = path.relative_to(ROOT).parts
    layer = parts[0]
    names = imported(path)
    packages = {name.partition(".")[0] for name in names}
    forbidden = FORBIDDEN[layer] - ({"streamlit"} if parts[:2] == ("mopdsim", "ui") else set())
    assert not packages & forbidden
    if parts[:2] != ("mopdsim", "ui"):
        assert not {name for name in names if name.startswith("mopdsim.ui")}
    if layer == "trainer" and path.name not in ("cli.py", "bench.py"):
        used = {name.split(".")[1] for name in names if name.startswith("mopdsim.")}
        assert used <= ALLOWED_OF_MOPDSIM


def test_import_mopdsim_leaves_the_heavy_ones_out() -> None:
    modules = "mopdsim, mopdsim.cli, mopdsim.recipe, mopdsim.recipes, mopdsim.recipe_file"
    heavy = "{'torch', 'transformers', 'streamlit', 'pandas', 'scipy'}"
    code = f"import sys, {modules}; sys.exit(str({heavy} & set(sys.modules)) if {heavy} & set(sys.modules) else 0)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_list_of_studies_and_a_plan_of_stages_leave_what_computes_out() -> None:
    code = (
        "import sys, trainer.plan, studies.conduct\n"
        "from studies.registry import NAMES, study\n"
        "[study(name) for name in NAMES]\n"
        "found = {'torch', 'transformers', 'altair'} & set(sys.modules)\n"
        "sys.exit(str(found) if found else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
