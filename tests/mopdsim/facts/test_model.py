"""Counting against published totals, published cache sizes and configurations written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopdsim.base.errors import NotFoundError, UsageError
from mopdsim.facts.hardware import data_rows
from mopdsim.facts.model import from_config, model, models

EXACT = {  # parameters of the published checkpoints
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "Qwen/Qwen3-30B-A3B": 30_532_122_624,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "meta-llama/Meta-Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Meta-Llama-3.1-70B": 70_553_706_496,
    "mistralai/Mixtral-8x7B-v0.1": 46_702_792_704,
}
# Names round: Nemotron Nano has 31.6 B, MPT-1b has 1.31 B, MPT-3b 2.65 B and MPT-70b 64.8 B parameters.
NOMINAL = {
    "MPT-1b": 0.33,
    "MPT-3b": 0.13,
    "MPT-7b": 0.06,
    "MPT-70b": 0.08,
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": 0.06,
}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 100,
    "tie_word_embeddings": False,
}


PUBLISHED = {row["model"]: row for row in data_rows("models.csv")}


@pytest.mark.parametrize("name", EXACT)
def test_parameters_of_published_checkpoints(name: str) -> None:
    assert model(name).total_parameters == EXACT[name]


@pytest.mark.parametrize("name", sorted(models()))
def test_totals_are_within_three_percent_of_the_published_size(name: str) -> None:
    published = float(PUBLISHED[name]["total_b"]) * 1e9
    assert model(name).total_parameters == pytest.approx(published, rel=NOMINAL.get(name, 0.03))


@pytest.mark.parametrize("name", [name for name, found in models().items() if found.is_moe])
def test_active_parameters_agree_with_the_published_ones(name: str) -> None:
    """Makers count the embedding tables in or out, and round to a whole billion."""
    found = model(name)
    counted = found.active_parameters / 1e9
    tables = 2 * found.embedding_parameters / 1e9
    assert counted - tables - 0.5 <= float(PUBLISHED[name]["active_b"]) <= counted + 0.5


def test_published_cache_sizes() -> None:
    assert model("deepseek-ai/DeepSeek-V3").kv_bytes_per_token() == 70_272  # arXiv 2505.09343, table 1
    assert model("Qwen/Qwen2.5-72B").kv_bytes_per_token() == 327_680
    assert model("Llama-3.1-405B").kv_bytes_per_token() == 516_096


def test_windows_and_states_do_not_grow() -> None:
    sliding = from_config({**LLAMA, "sliding_window": 16})
    assert sliding.kv_bytes_per_token() == 0
    assert sliding.cache_elements(1000) == sliding.cache_elements(16) == 2 * 16 * 2 * 2 * 16
    hybrid = model("Qwen/Qwen3.5-27B")
    states = float(hybrid.cache_elements(0))
    assert states > 0
    assert float(hybrid.cache_elements(10)) - states == 10 * 16 * 2 * 4 * 256


def test_attention_is_half_the_square_and_windows_are_linear() -> None:
    full = from_config(LLAMA)
    assert full.attention_flops([10]) == pytest.approx(2 * 4 * 64 * 10**2 / 2)
    assert full.attention_flops([10, 20]) == pytest.approx(
        full.attention_flops([10]) + full.attention_flops([20])
    )
    sliding = from_config({**LLAMA, "sliding_window": 16})
    assert sliding.attention_flops([16]) == full.attention_flops([16])
    more = sliding.attention_flops([116]) - sliding.attention_flops([16])
    assert more == pytest.approx(100 * 16 * 2 * 4 * 64)


def test_matmul_parameters_leave_the_input_table_out() -> None:
    untied = from_config(LLAMA)
    tied = from_config({**LLAMA, "tie_word_embeddings": True})
    assert untied.matmul_parameters == tied.matmul_parameters
    norms = 5 * 64
    assert untied.total_parameters == untied.matmul_parameters + norms + 100 * 64
    assert tied.total_parameters == tied.matmul_parameters + norms


def test_experts_touched_runs_from_k_to_all() -> None:
    moe = model("Qwen/Qwen3-30B-A3B")
    one, many = (float(moe.expert_parameters_touched(tokens)) for tokens in (1, 1e6))
    assert one * 128 / 8 == pytest.approx(many, rel=1e-6)
    assert many == pytest.approx(moe.routed_parameters)


@given(name=st.sampled_from(sorted(models())), tokens=st.lists(st.integers(1, 10**6), min_size=2, max_size=5))
def test_counts_are_monotone(name: str, tokens: list[int]) -> None:
    found = model(name)
    ordered = np.sort(np.array(tokens, dtype=float))
    assert np.all(np.diff(found.cache_elements(ordered)) >= 0)
    assert np.all(np.diff(found.expert_parameters_touched(ordered)) >= -1e-3)
    assert np.all(found.cache_elements_read(ordered) <= found.cache_elements(ordered) + 1e-6)
    assert found.active_parameters <= found.total_parameters
    assert 0 < found.matmul_parameters <= found.active_parameters + found.embedding_parameters


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("Llama-3.1-8B-Instruct", "meta-llama/Meta-Llama-3.1-8B"),
        ("nvidia/Qwen3-32B-NVFP4", "Qwen/Qwen3-32B"),
        ("deepseek-ai/DeepSeek-R1", "deepseek-ai/DeepSeek-V3"),
        ("Qwen3_30B_a3B", "Qwen/Qwen3-30B-A3B"),
        ("GPT OSS 120B", "openai/gpt-oss-120b"),
    ],
)
def test_names_of_public_tables_resolve(alias: str, name: str) -> None:
    assert model(alias).name == name


def test_a_config_file_is_a_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"text_config": LLAMA}))
    assert model(str(tmp_path / "config.json")).total_parameters == from_config(LLAMA).total_parameters
    assert from_config(tmp_path).name == tmp_path.name


@pytest.mark.parametrize("value", [None, 0, -3, "64", float("nan"), True, 10**12])
def test_a_bad_size_is_named(value: object) -> None:
    with pytest.raises(UsageError, match="hidden_size"):
        from_config({**LLAMA, "hidden_size": value})


def test_bad_configs_and_names(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"Qwen3-7B.*did you mean"):
        model("Qwen/Qwen3-7B")
    with pytest.raises(NotFoundError, match="does not exist"):
        model(str(tmp_path / "none.json"))
    broken = tmp_path / "config.json"
    broken.write_text("{")
    with pytest.raises(UsageError, match="not JSON"):
        model(str(broken))
    broken.write_text("[1]")
    with pytest.raises(UsageError, match="one JSON object"):
        model(str(broken))
    with pytest.raises(UsageError, match=r"kv_lora|qk_nope"):
        from_config({**LLAMA, "kv_lora_rank": 8})
    with pytest.raises(UsageError, match="must agree"):
        from_config({**LLAMA, "layer_types": ["full_attention"]})
