"""Questions that the app opens with: each a scenario document, as a scenario file would hold it.

Leaves out: what is changed on them (`mopdsim.app.choice`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A question with its title."""

    title: str
    document: Mapping[str, Any]


_EIGHT = ["math", "code", "swe", "tool_use", "search", "instruction_following", "chat", "safety"]
DEFAULT = "eight_domains"
PRESETS: Mapping[str, Preset] = {
    DEFAULT: Preset(
        title="Eight domains, 512 H200s, $3M, twelve weeks, five teams",
        document={
            "recipe": "mopd",
            "domains": _EIGHT,
            "model": "Qwen3-30B-A3B",
            "gpu": "H200",
            "gpus": 512,
            "teams": 5,
            "budget_usd": 3_000_000.0,
            "deadline_days": 84.0,
            "options": {"amounts": "small"},
        },
    ),
    "three_specialists": Preset(
        title="Three specialists and one student on 64 H100s",
        document={
            "recipe": "mopd",
            "domains": ["math", "instruction_following", "swe"],
            "model": "Qwen3-30B-A3B",
            "gpu": "H100",
            "gpus": 64,
            "teams": 3,
            "budget_usd": 300_000.0,
            "deadline_days": 60.0,
            "options": {"amounts": "small"},
        },
    ),
    "conflicting_pair": Preset(
        title="One mixed run over two domains that a pilot showed to conflict",
        document={
            "recipe": "mixed_rl",
            "domains": ["math", "chat"],
            "model": "Qwen3-8B",
            "gpu": "H100",
            "gpus": 32,
            "teams": 1,
            "budget_usd": 50_000.0,
            "deadline_days": 28.0,
            "options": {"amounts": "small"},
            "domain": {"math": {"start": [0.25, 0.29], "asymptote": [0.45, 0.55]}},
            "conflict": {"math>chat": [-0.6, -0.2], "chat>math": [-0.3, 0.0]},
        },
    ),
    "tiny": Preset(
        title="Six tiny domains that this machine can run for real",
        document={
            "recipe": "mopd",
            "domains": ["sort", "reverse", "shift", "swap", "brackets", "rle_decode"],
            "model": "tiny",
            "gpu": "CPU-2-cores",
            "gpus": 1,
            "teams": 1,
            "options": {"amounts": "tiny"},
            "reliability": {"failures_per_gpu_hour": 0.0, "rerun_probability": 0.0},
        },
    ),
}
