"""What each term of the time model is worth: fits with the term switched off, and their errors on models left out.

A term pays where its absence raises the error on models that the fit has not seen. Terms of mechanisms that have no
constant (padding, full sharding, k-step off) are not here: `mopd validate scenarios` and the FSDP table judge them.

    python -m mopdsim.fit.ablation              prints a table (Markdown), about four minutes of one core
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mopdsim.fit.cost import fit, parts
from mopdsim.validate.cost import LOADERS, symmetric_error
from mopdsim.validate.effects import name_of
from mopdsim.validate.intervals import errors_of
from mopdsim.validate.tables import published

OFF = 1e-9
TERMS: Mapping[str, tuple[str, ...]] = {
    "rl_steps": (
        "refit_s", "cross_node_s", "faster_gpu_power", "microbatch_overhead", "fixed_s", "decode_overhead",
    ),
    "train_throughput": ("microbatch_layer_s", "elementwise_passes", "tensor_traffic", "data_traffic"),
}  # fmt: skip
NEUTRAL = {"decode_overhead": 1.0}
SCHEME = "leave one model out"


def errors(kind: str, pinned: Mapping[str, float]) -> dict[str, float]:
    """Median and P90 of the symmetric errors of rows whose model was left out, some constants pinned."""
    loader = LOADERS[kind]
    rows = loader.load(published(kind)).rows
    wrong = []
    for part in parts(rows):
        if part.scheme != SCHEME:
            continue
        kept = fit(kind, [row for row in rows if not part.holds(row)], loader, pinned=pinned).constants
        out = [row for row in rows if part.holds(row)]
        measured = np.array([row.measured for row in out])
        wrong += symmetric_error(loader.predict(loader.stacked(out), kept), measured).tolist()
    return errors_of(wrong)


def table() -> list[dict[str, Any]]:
    """A row a term: errors with all terms, and without it."""
    found = []
    for kind, terms in TERMS.items():
        whole = errors(kind, {})
        found.append({"kind": kind, "term": "all terms", **whole})
        for term in terms:
            off = errors(kind, {term: NEUTRAL.get(term, OFF)})
            found.append({"kind": kind, "term": f"without {name_of(term)}", **off})
    return found


def main() -> None:
    """Prints the table."""
    print("| table | term | median error | P90 |\n|---|---|---|---|")
    for row in table():
        print(f"| {row['kind']} | {row['term']} | {row['median_error']:.1%} | {row['p90_error']:.0%} |")


if __name__ == "__main__":
    main()
