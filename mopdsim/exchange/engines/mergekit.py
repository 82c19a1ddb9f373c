"""Merges for mergekit 0.1.5: linear, task_arithmetic, ties. Leaves out: everything that trains."""

from __future__ import annotations

from mopdsim.exchange.engines import parts
from mopdsim.exchange.engines.parts import Job, Request, dump
from mopdsim.recipes.stage import AnyStage, Merge

ENGINE = "mergekit"
VERSION = "0.1.5"
KINDS = {"merge": "merge"}
METHODS = {"average": "linear", "task_arithmetic": "task_arithmetic", "ties": "ties"}


def job(request: Request, stage: AnyStage) -> Job:
    """The merge as mergekit's configuration. UsageError for a stage that trains."""
    parts.check_kind(stage, ENGINE, KINDS)
    assert isinstance(stage, Merge)
    weights = stage.weights or (1.0,) * len(stage.inputs)
    average, ties = stage.method == "average", stage.method == "ties"
    models = [
        {
            "model": request.weights_of(name),
            "parameters": {"weight": float(weight)} | ({"density": stage.density} if ties else {}),
        }
        for name, weight in zip(stage.inputs, weights, strict=True)
    ]
    parameters = {"normalize": True} if average else {"normalize": ties, "lambda": stage.scale}
    config = {
        "merge_method": METHODS[stage.method],
        **({} if average else {"base_model": request.weights_of(stage.init)}),
        "models": models,
        "parameters": parameters | ({"rescale": False} if ties else {}),
    }
    differs = []
    if ties:
        differs.append(
            "TIES: of several changes of exactly the threshold's size mergekit keeps some, ours keeps all"
        )
    return Job(
        stage=stage.name,
        engine=ENGINE,
        files={"config.yml": dump(config)},
        command="${PYTHON:-python} -m mergekit.scripts.run_yaml config.yml weights",
        gpus=0,
        differs=tuple(differs),
    )
