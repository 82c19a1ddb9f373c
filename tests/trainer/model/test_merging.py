"""Merges against identities, hand-computed examples and the Hugging Face loader."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from mopdsim.base.errors import NotFoundError, UsageError
from trainer.model import merging

Model = dict[str, Tensor]


def random_model(seed: int, dtype: torch.dtype = torch.float32) -> Model:
    noise = torch.Generator().manual_seed(seed)
    shapes = {"weight": (3, 4), "norm": (4,), "scalar": ()}
    model = {name: torch.randn(shape, generator=noise).to(dtype) for name, shape in shapes.items()}
    return {**model, "ids": torch.arange(3)}


BASE, ONE, TWO = (random_model(seed) for seed in range(3))
METHODS = {
    "average": merging.average([1.0, 2.0]),
    "task arithmetic": merging.task_arithmetic(0.7, [1.0, 2.0]),
    "ties": merging.ties(0.7, 0.4, [1.0, 2.0]),
}
methods = pytest.mark.parametrize("combine", METHODS.values(), ids=list(METHODS))


def merged(combine: merging.Combine, base: Model, models: Sequence[Model]) -> Model:
    """The merge of tensors, each model in a file of its own."""
    with TemporaryDirectory() as name:
        places = [Path(name) / str(number) for number in range(1 + len(models))]
        for place, model in zip(places, (base, *models), strict=True):
            place.mkdir()
            save_file(model, place / "model.safetensors")
        merging.merge_directories(combine, places[0], places[1:], Path(name) / "out")
        return load_file(Path(name) / "out" / "model.safetensors")


def assert_equal(found: Model, expected: Model) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@methods
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merging_a_model_with_itself_changes_nothing(combine, dtype: torch.dtype) -> None:
    model = random_model(0, dtype)
    assert_equal(merged(combine, model, [model, model]), model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_teacher_at_scale_one_is_that_teacher(dtype: torch.dtype) -> None:
    base, teacher = random_model(0, dtype), random_model(1, dtype)
    for combine in (
        merging.task_arithmetic(1.0, [1.0]),
        merging.ties(1.0, 1.0, [1.0]),
        merging.average([3.0]),
    ):
        assert_equal(merged(combine, base, [teacher]), teacher)


def test_average_and_task_arithmetic_are_linear() -> None:
    found = merged(merging.average([1.0, 3.0]), BASE, [ONE, TWO])
    torch.testing.assert_close(found["weight"], 0.25 * ONE["weight"] + 0.75 * TWO["weight"])
    found = merged(merging.task_arithmetic(0.5, [1.0, 3.0]), BASE, [ONE, TWO])
    truth = BASE["weight"] + 0.5 * (ONE["weight"] - BASE["weight"]) + 1.5 * (TWO["weight"] - BASE["weight"])
    torch.testing.assert_close(found["weight"], truth)


def test_ties_by_hand() -> None:
    """Changes of two models, density 3/5: the bracketed ones are trimmed.

    one      4   -1  [0.5]   2  [-0.2]       elected sign   +  -  -  +   0
    two      2   [1]  -3     6  [0.1]        disjoint mean  3 -1 -3  4   0
    """
    base = {"w": torch.ones(5)}
    one = {"w": base["w"] + torch.tensor([4.0, -1.0, 0.5, 2.0, -0.2])}
    two = {"w": base["w"] + torch.tensor([2.0, 1.0, -3.0, 6.0, 0.1])}
    found = merged(merging.ties(0.5, 0.6, [1.0, 1.0]), base, [one, two])
    torch.testing.assert_close(found["w"], 1 + 0.5 * torch.tensor([3.0, -1.0, -3.0, 4.0, 0.0]))


def test_ties_elects_by_mass_and_drops_the_minority() -> None:
    base = {"w": torch.zeros(3)}
    changes = [torch.tensor([1.0, 1.0, 2.0]), torch.tensor([1.5, 3.0, -2.0]), torch.tensor([-2.0, -5.0, 0.0])]
    combine = merging.ties(1.0, 1.0, [1.0, 1.0, 1.0])
    found = merged(combine, base, [{"w": change} for change in changes])
    assert found["w"].tolist() == [1.25, -5.0, 0.0]
    weighted = merged(merging.ties(1.0, 1.0, [1.0, 3.0, 1.0]), base, [{"w": change} for change in changes])
    torch.testing.assert_close(weighted["w"], torch.tensor([(1 + 4.5) / 4, (1 + 9) / 4, -2.0]))


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), density=st.floats(0.05, 1.0))
def test_a_ties_change_lies_within_the_models_changes(seed: int, density: float) -> None:
    base, one, two = (random_model(seed + i) for i in range(3))
    found = merged(merging.ties(1.0, density, [1.0, 1.0]), base, [one, two])
    moved, *changes = (model["weight"] - base["weight"] for model in (found, one, two))
    lowest, highest = torch.stack([*changes, torch.zeros(3, 4)]).aminmax(dim=0)
    assert ((moved >= lowest - 1e-5) & (moved <= highest + 1e-5)).all()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"weight": torch.zeros(3, 5)}, "weight"),
        ({"norm": torch.zeros(4, dtype=torch.int16)}, "norm"),
        ({"extra": torch.zeros(1)}, "extra"),
        ({"ids": torch.ones(3, dtype=torch.long)}, "ids"),
    ],
)
def test_a_tensor_that_differs_is_named(tmp_path: Path, change: Model, named: str) -> None:
    combine = merging.average([1.0, 1.0])
    other = {**ONE, **change}
    for name, model in (("base", BASE), ("one", ONE), ("other", other)):
        (tmp_path / name).mkdir()
        save_file(model, tmp_path / name / "model.safetensors")
    with pytest.raises(UsageError, match=f"tensor '{named}'.*merge models of one base"):
        merging.merge_directories(
            combine, tmp_path / "base", [tmp_path / "one", tmp_path / "other"], tmp_path / "out"
        )
    assert not list(tmp_path.glob("out/*.safetensors"))


def test_a_missing_tensor_is_named() -> None:
    with pytest.raises(UsageError, match="tensor 'norm' is absent in model 1"):
        merged(merging.average([1.0]), BASE, [{name: ONE[name] for name in ("weight", "scalar", "ids")}])


def save_models(folder: Path, count: int) -> list[Path]:
    config = Qwen3Config(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        tie_word_embeddings=True,
    )
    paths = []
    for seed in range(count):
        torch.manual_seed(seed)
        paths.append(folder / f"model{seed}")
        sharded = {"max_shard_size": "5KB"} if seed == 1 else {}
        Qwen3ForCausalLM(config).save_pretrained(paths[-1], **sharded)
    return paths


@methods
def test_shards_change_nothing_and_what_is_merged_loads(tmp_path: Path, combine) -> None:
    base, one, two = save_models(tmp_path, 3)
    assert len(list(one.glob("*.safetensors"))) > 1  # sharded
    (base / "sha256.json").write_text("{}")
    merging.merge_directories(combine, base, [one, two], tmp_path / "out")
    tensors = [
        {name: tensor for file in path.glob("*.safetensors") for name, tensor in load_file(file).items()}
        for path in (base, one, two)
    ]
    truth = merged(combine, tensors[0], tensors[1:])
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == truth.keys()
    assert all(torch.equal(found[name], truth[name]) for name in truth)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(model.state_dict()["model.norm.weight"], truth["model.norm.weight"])


def test_folders_keep_types_scalars_and_integers_and_are_aligned(tmp_path: Path) -> None:
    mixed = [{**random_model(s), "half": random_model(s + 9, torch.bfloat16)["scalar"]} for s in range(2)]
    for name, model in zip(("base", "one"), mixed, strict=True):
        (tmp_path / name).mkdir()
        save_file(model, tmp_path / name / "model.safetensors")
    output = tmp_path / "out" / "model.safetensors"
    merging.merge_directories(
        merging.task_arithmetic(1.0, [1.0]), tmp_path / "base", [tmp_path / "one"], output.parent
    )
    found = load_file(output)
    assert all(torch.equal(found[name], mixed[1][name]) for name in mixed[1])
    length = int.from_bytes(output.read_bytes()[:8], "little")
    header = json.loads(output.read_bytes()[8 : 8 + length])
    assert length % 8 == 0
    assert all(header[name]["data_offsets"][0] % found[name].itemsize == 0 for name in found)


def test_folders_without_weights_and_outputs_with_weights_are_refused(tmp_path: Path) -> None:
    base, one = save_models(tmp_path, 2)
    combine = merging.average([1.0])
    with pytest.raises(NotFoundError, match="holds no"):
        merging.merge_directories(combine, base, [tmp_path / "absent"], tmp_path / "out")
    with pytest.raises(UsageError, match="never overwrites"):
        merging.merge_directories(combine, base, [one], base)


@methods
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_specialists_trained_in_float32_merge_with_a_base_of_16_bits(
    tmp_path: Path, combine, dtype: torch.dtype
) -> None:
    base, one, two = random_model(0, dtype), random_model(1), random_model(2)
    for name, model in (("base", base), ("one", one), ("two", two)):
        (tmp_path / name).mkdir()
        save_file(model, tmp_path / name / "model.safetensors")
    merging.merge_directories(
        combine, tmp_path / "base", [tmp_path / "one", tmp_path / "two"], tmp_path / "out"
    )
    found = load_file(tmp_path / "out" / "model.safetensors")
    wide = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in base.items()}
    for name, tensor in merged(combine, wide, [one, two]).items():
        assert found[name].dtype == tensor.dtype
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


def test_a_head_stored_beside_tied_embeddings_does_not_count(tmp_path: Path) -> None:
    base, one = save_models(tmp_path, 2)
    weights = load_file(base / "model.safetensors")
    save_file(
        {**weights, "lm_head.weight": weights["model.embed_tokens.weight"].clone()},
        base / "model.safetensors",
        metadata={"format": "pt"},
    )
    merging.merge_directories(merging.task_arithmetic(1.0, [1.0]), base, [one], tmp_path / "out")
    ours, theirs = (
        AutoModelForCausalLM.from_pretrained(place).state_dict() for place in (tmp_path / "out", one)
    )
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in theirs)
