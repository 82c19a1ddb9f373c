"""Which physical effect the largest errors of a table point at.

The elasticity of a prediction to a constant, d ln p / d ln c, says how much of the predicted time that effect carries.
Of the rows with the largest errors, the effect named is the constant whose one common factor f would remove most of
their squared log error: least squares of the errors on the elasticities, r_i = e_i ln f, f between 1/10 and 10. A
factor far from 1 with a large removed share means that the effect is mis-modelled on these rows; a small share means
that no single effect is.
Leaves out: effects that have no constant (what the equations do not contain at all), and combinations of two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.cost.constants import ConstantSet
from mopdsim.validate.tables import Row

LARGEST_SHARE = 0.1  # of the rows, at least FEWEST
FEWEST = 5
STEP = 1e-3
LARGEST_LOG_FACTOR = float(np.log(10.0))
SHOWN = 3

EFFECTS: Mapping[str, str] = {
    "bandwidth_efficiency": "memory bandwidth that reading weights and cache reaches",
    "flops_efficiency": "share of the peak that matrix products reach",
    "prefill_efficiency": "prompts computed in the same step as decoding",
    "layer_s": "launch latency per layer",
    "moe_layer_s": "routing and launches per expert layer",
    "reduce_latency_s": "latency of reductions between GPUs",
    "reduce_bytes": "bytes of reductions between GPUs",
    "sequence_s": "scheduling and sampling per sequence",
    "wide_layer_s": "dispatch of tokens to experts on other GPUs",
    "cross_node_s": "latency of reductions between nodes",
    "precision_power": "how much of a narrower format's peak is gained",
    "attention_efficiency": "attention kernels, below the efficiency of products",
    "expert_overhead": "routed experts: all-to-all, permutation and small products",
    "elementwise_passes": "elementwise traffic through memory",
    "tensor_traffic": "tensor-parallel reductions",
    "data_traffic": "gradients and weights between data-parallel GPUs",
    "microbatch_layer_s": "launches of a layer of one microbatch",
    "decode_overhead": "decode latencies of an engine inside a training loop",
    "train_overhead": "training inside the loop against a tuned run",
    "expert_train_overhead": "expert layers of a training run inside the loop",
    "length_sigma": "spread of response lengths: the wait for the longest",
    "fixed_s": "fixed time per step: reward, data, bookkeeping",
    "refit_s": "new weights to the rollout engine, by the model's size",
    "faster_gpu_power": "how much of a faster GPU training in the loop gains",
    "microbatch_overhead": "launches of a microbatch inside the loop",
}


def name_of(constant: str) -> str:
    """The physical effect that a constant stands for."""
    release = constant.removeprefix("version_").replace("_", " ")
    return EFFECTS.get(constant, f"efficiency of the framework release {release}")


def elasticities(rows: list[Row], constants: ConstantSet, loader: ModuleType) -> dict[str, Array]:
    """d ln prediction / d ln constant by constant and row; forward differences."""
    work = loader.stacked(rows)
    central = np.log(loader.predict(work, constants))
    return {
        name: (np.log(loader.predict(work, _scaled(constants, name))) - central) / np.log1p(STEP)
        for name in constants.names()
    }


def _scaled(constants: ConstantSet, name: str) -> ConstantSet:
    return replace(constants, **{name: getattr(constants, name) * (1 + STEP)})


def _most_common(rows: list[Row], key: str) -> dict[str, int]:
    return dict(Counter(row.keys[key] for row in rows).most_common(SHOWN))


def largest_errors(
    rows: list[Row], predicted: Array, constants: ConstantSet, loader: ModuleType
) -> dict[str, Any]:
    """The rows that err most, and the effects that would explain them, best first."""
    count = min(len(rows), max(FEWEST, round(LARGEST_SHARE * len(rows))))
    if not count:
        return {"rows": 0, "effects": []}
    errors = np.log(np.array([row.measured for row in rows]) / predicted)
    worst = np.argsort(-np.abs(errors))[:count]
    chosen, wrong = [rows[i] for i in worst], errors[worst]
    found = []
    for name, slope in elasticities(chosen, constants, loader).items():
        strength = float(slope @ slope)
        wanted = float(slope @ wrong) / strength if strength > 0 else 0.0
        log_factor = float(np.clip(wanted, -LARGEST_LOG_FACTOR, LARGEST_LOG_FACTOR))
        removed = 1.0 - float(((wrong - log_factor * slope) ** 2).sum() / (wrong**2).sum())
        found.append(
            {
                "effect": name_of(name),
                "constant": name,
                "factor": round(float(np.exp(log_factor)), 3),
                "removed_share": round(removed, 3),
            }
        )
    found.sort(key=lambda effect: -float(str(effect["removed_share"])))
    return {
        "rows": count,
        "slower_than_predicted": int((wrong > 0).sum()),
        "models": _most_common(chosen, "model"),
        "gpus": _most_common(chosen, "gpu"),
        "effects": found[:SHOWN],
    }
