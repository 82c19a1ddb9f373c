"""Stages side by side fit into the memory that was free; what each takes follows its model and its teachers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from small_world import SETTINGS, shrunk

from mopdsim.recipes import catalogue
from trainer.runs.execute import carry_out
from trainer.runs.memory import PARAMETER_BYTES, TEACHER_BYTES, memory_bytes
from trainer.runs.plan import Node, Plan, plan
from trainer.runs.pools import Event, Here
from trainer.runs.progress import Progress
from trainer.runs.store import Store

pytestmark = pytest.mark.usefixtures("one_thread")


class Many(Here):
    """This process, which begins several stages and runs the oldest."""

    workers = 3

    def __init__(self, root: Path) -> None:
        super().__init__(root, lambda key, note: None)
        self.nodes: list[Node] = []
        self.most = 0

    def submit(self, node: Node) -> None:
        self.nodes.append(node)
        self.most = max(self.most, len(self.nodes))

    def next(self) -> Event:
        self.node = self.nodes.pop(0)
        return super().next()


class Heard(Progress):
    """What was held back, with what it wanted."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.waited: dict[str, float] = {}

    def held_back(self, node: Node, wanted: float, room: float) -> None:
        super().held_back(node, wanted, room)
        assert wanted > room
        self.waited[node.label] = wanted


def planned(small: Mapping[str, str], model: Path, root: Path) -> Plan:
    recipe = shrunk(catalogue.recipe("mopd", list(small.values())), steps=1)
    return plan({"mopd": recipe}, model=str(model), settings=SETTINGS, store=Store(root=root))


@pytest.mark.slow
def test_stages_wait_where_the_memory_holds_one_alone(
    small: dict[str, str], model: Path, tmp_path: Path
) -> None:
    found = {}
    for name, room in (("one", 1.0), ("all", math.inf)):
        whole, pool, heard = planned(small, model, tmp_path / name), Many(tmp_path / name), Heard()
        outcome = carry_out(whole, Store(root=tmp_path / name), pool, heard, raising=True, room=room)
        found[name] = (pool.most, len(heard.waited), outcome.summaries.keys())
    teachers = len(small)
    assert found["one"] == (1, teachers - 1, found["all"][2])
    assert found["all"][:2] == (teachers, 0)


def test_a_stage_wants_memory_for_its_model_and_each_of_its_teachers(
    small: dict[str, str], model: Path, tmp_path: Path
) -> None:
    parameters = sum(tensor.size for tensor in load_file(model / "model.safetensors").values())
    nodes = {node.label.rpartition("/")[2]: node for node in planned(small, model, tmp_path).nodes}
    student = nodes["student"]
    assert memory_bytes(nodes["teacher_1"]) == parameters * PARAMETER_BYTES
    assert memory_bytes(student) == parameters * (PARAMETER_BYTES + len(small) * TEACHER_BYTES)
    on_gpu = SETTINGS.model_copy(update={"device": "cuda"})
    assert memory_bytes(replace(student, job=replace(student.job, settings=on_gpu))) == 0
