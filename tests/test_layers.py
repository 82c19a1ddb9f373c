"""Imports point down: one table of folders says who may import whom, and no file is in a cycle.

Imports are read from every file's syntax tree, those inside functions included.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import networkx as nx

ROOT = Path(__file__).parents[1]
_FACTS = {"mopdsim/base", "mopdsim/recipes", "mopdsim/facts"}
_SCORES = _FACTS | {"mopdsim/belief", "mopdsim/quality"}
_FORECAST = _SCORES | {"mopdsim/cost", "mopdsim/forecast"}
_LANGUAGE = {"mopdsim/base", "mopdsim/recipes"}
_TRAINER = {
    "trainer/files",
    "trainer/tasks",
    "trainer/model",
    "trainer/losses",
    "trainer/batch",
    "trainer/stages",
}
ALLOWED: dict[str, set[str]] = {
    "mopdsim/base": set(),
    "mopdsim/recipes": {"mopdsim/base"},
    "mopdsim/facts": {"mopdsim/base"},
    "mopdsim/cost": _FACTS,
    "mopdsim/belief": {"mopdsim/base", "mopdsim/facts"},
    "mopdsim/quality": _FACTS | {"mopdsim/belief"},
    "mopdsim/forecast": _SCORES | {"mopdsim/cost"},
    "mopdsim/plan": _FORECAST | {"mopdsim/validate"},
    "mopdsim/validate": _FORECAST,
    "mopdsim/fit": _FORECAST | {"mopdsim/validate"},
    "mopdsim/app": _FORECAST | {"mopdsim/plan", "mopdsim/validate", "mopdsim/exchange"},
    "mopdsim/exchange": _FORECAST | {"mopdsim/validate"},
    "mopdsim/cli": _FORECAST
    | {"mopdsim/exchange", "mopdsim/plan", "mopdsim/validate", "mopdsim/fit", "mopdsim"},
    "trainer/files": _LANGUAGE,
    "trainer/tasks": {"mopdsim/base", "mopdsim/facts"},
    "trainer/losses": {"mopdsim/base"},
    "trainer/model": {"mopdsim/base", "trainer/files", "trainer/tasks"},
    "trainer/batch": _FACTS | {"trainer/files", "trainer/tasks", "trainer/model", "trainer/losses"},
    "trainer/stages": _LANGUAGE | (_TRAINER - {"trainer/stages"}),
    "trainer/runs": _FACTS | _TRAINER,
    "trainer/bench": _LANGUAGE | _TRAINER | {"trainer/runs"},
    "trainer/trace": _FORECAST | _TRAINER | {"mopdsim/cli", "trainer/runs"},
    "trainer": _LANGUAGE | _TRAINER | {"mopdsim/cli", "mopdsim/fit", "trainer/runs", "trainer/bench"},
    "studies/framework": _FACTS | _TRAINER | {"mopdsim/cost", "trainer/runs"},
    "studies/designs": _FORECAST
    | _TRAINER
    | {"trainer/runs", "trainer/trace", "trainer/bench", "studies/framework"},
    "studies/honest": _FORECAST
    | {"mopdsim", "mopdsim/fit", "mopdsim/validate", "trainer/files", "studies/framework", "studies/designs"},
    "studies/cli": _FORECAST
    | {
        "mopdsim/cli",
        "trainer/files",
        "trainer/runs",
        "studies/framework",
        "studies/designs",
        "studies/honest",
    },
}
_TORCH = {"torch", "transformers", "trl"}
FORBIDDEN = {"mopdsim": {*_TORCH, "streamlit"}, "trainer": {"streamlit"}, "studies": {"streamlit"}}
MOST_FILES = 16  # in one folder


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for root in FORBIDDEN for path in (ROOT / root).rglob("*.py")}


@cache
def _imported(path: Path) -> set[str]:
    """Full names of what a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _module(name: str) -> str | None:
    """The project's module that an imported name is or stands in."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name or None


def _folder(module: str) -> str:
    """The first two folders of a module's path; the first alone for a file that stands there."""
    return "/".join(MODULES[module].relative_to(ROOT).parent.parts[:2])


def test_imports_point_down() -> None:
    assert not {module: wrong for module in MODULES if (wrong := _wrong_imports(module))}


def _wrong_imports(module: str) -> set[str]:
    """Packages and folders that a module imports and may not."""
    names = _imported(MODULES[module])
    forbidden = FORBIDDEN[module.partition(".")[0]]
    if _folder(module) == "mopdsim/app":
        forbidden = forbidden - {"streamlit"}
    if (
        module == "mopdsim.facts.model"
    ):  # its config classes, inside the function that fills a user's config.json
        forbidden = forbidden - {"transformers"}
    folders = {_folder(found) for name in names if (found := _module(name))}
    packages = {name.partition(".")[0] for name in names} & forbidden
    return packages | (folders - {_folder(module)} - ALLOWED.get(_folder(module), set()))


def test_no_file_is_in_a_cycle() -> None:
    graph = nx.DiGraph()
    for module, path in MODULES.items():
        graph.add_edges_from(
            (module, found) for name in _imported(path) if (found := _module(name)) and found != module
        )
    assert not [sorted(each) for each in nx.strongly_connected_components(graph) if len(each) > 1]


def test_the_table_of_folders_has_no_cycle() -> None:
    assert nx.is_directed_acyclic_graph(nx.DiGraph([(a, b) for a, below in ALLOWED.items() for b in below]))


def test_a_folder_can_be_held_in_mind() -> None:
    for folder in {path.parent for path in MODULES.values()}:
        assert len(list(folder.glob("*.py"))) <= MOST_FILES, folder


def test_no_test_module_imports_another() -> None:
    for path in (ROOT / "tests").rglob("*.py"):
        assert not {name for name in _imported(path) if name.rpartition(".")[0].startswith("test_")}, path


def _leaves_out(modules: str, heavy: set[str]) -> None:
    code = f"import sys, {modules}; found = {heavy} & set(sys.modules); sys.exit(str(found) if found else 0)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_import_mopdsim_leaves_the_heavy_ones_out() -> None:
    _leaves_out(
        "mopdsim.cli.main, mopdsim.recipes.catalogue, mopdsim.recipes.recipe_file",
        {"torch", "transformers", "streamlit", "pandas", "scipy"},
    )


def test_a_list_of_studies_and_a_plan_of_stages_leave_what_computes_out() -> None:
    code = (
        "import sys, trainer.runs.plan, studies.framework.conduct\n"
        "from studies.framework.registry import NAMES, study\n"
        "[study(name) for name in NAMES]\n"
        "found = {'torch', 'transformers', 'altair'} & set(sys.modules)\n"
        "sys.exit(str(found) if found else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
