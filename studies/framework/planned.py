"""From the runs of a study to the stages to run: each distinct stage once, whoever wants it.

Leaves out: what they cost (`studies.framework.ledger`), running them (`studies.framework.executor`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from studies.framework.run import Run
from trainer.runs.plan import BUILT_IN, Node, default_start, plan
from trainer.runs.store import Store


@dataclass(frozen=True, kw_only=True)
class Planned:
    """nodes: by key, parents first. keys: run -> stage ("base" too) -> key."""

    nodes: Mapping[str, Node]
    keys: Mapping[str, Mapping[str, str]]

    def needed(self, run: str) -> set[str]:
        """Keys of all stages of a run."""
        return set(self.keys[run].values())


def planned(runs: Mapping[str, Run], store: Store, *, scale: float = 1.0) -> Planned:
    """Plan every run against one store; `scale` applies to `tiny`'s default start (the runs are scaled already)."""
    nodes: dict[str, Node] = {}
    keys: dict[str, Mapping[str, str]] = {}
    for name, run in runs.items():
        start = run.start
        if start is None and scale != 1 and run.model in BUILT_IN:
            start = default_start(len(run.recipe.domains), scale=scale)
        found = plan(
            {name: run.recipe}, model=run.model, settings=run.settings, store=store, start_amounts=start
        )
        for node in found.nodes:
            nodes.setdefault(node.key, node)
        keys[name] = {stage: key for stage, key in found.keys[name].items() if key in nodes}
    return Planned(nodes=nodes, keys=keys)
