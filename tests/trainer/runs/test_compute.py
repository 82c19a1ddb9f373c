"""The type that a run computes in is asked of the processor and the model, said, kept and part of the key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mopdsim.base.errors import UsageError
from trainer.files.settings import Settings
from trainer.runs import compute
from trainer.runs.compute import multiplies_bfloat16, resolve_dtype, width_of
from trainer.runs.plan import BUILT_IN

WITH, WITHOUT = "flags\t\t: fpu amx_bf16 avx2\n", "flags\t\t: fpu avx2 avx512f\n"


@pytest.fixture
def processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\n{WITH}")
    monkeypatch.setattr(compute, "CPUINFO", path)
    monkeypatch.setattr(
        compute, "multiplies_bfloat16", lambda device: multiplies_bfloat16(device, cpuinfo=path)
    )
    return path


def model(tmp_path: Path, **config: object) -> str:
    place = tmp_path / "model"
    place.mkdir(exist_ok=True)
    (place / "config.json").write_text(json.dumps(config))
    (place / "tokenizer.json").write_text("{}")
    return str(place)


def test_bfloat16_where_the_processor_and_the_model_gain(processor: Path, tmp_path: Path) -> None:
    wide, narrow = 512, 511
    assert resolve_dtype("auto", model=model(tmp_path, hidden_size=wide), device="cpu") == "bfloat16"
    assert resolve_dtype("auto", model=model(tmp_path, n_embd=wide), device="cpu") == "bfloat16"
    assert resolve_dtype("auto", model=model(tmp_path, hidden_size=narrow), device="cpu") == "float32"
    assert resolve_dtype("float32", model=model(tmp_path, hidden_size=wide), device="cpu") == "float32"
    processor.write_text("flags\t\t: fpu avx2 avx512_bf16\n")
    assert resolve_dtype("auto", model=model(tmp_path, hidden_size=wide), device="cpu") == "bfloat16"
    for text in (WITHOUT, "", "flags\t\t: amx_bf16_other\n"):
        processor.write_text(text)
        assert resolve_dtype("auto", model=model(tmp_path, hidden_size=wide), device="cpu") == "float32"
    processor.unlink()
    assert resolve_dtype("auto", model=model(tmp_path, hidden_size=wide), device="cpu") == "float32"


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_models_stay_as_they_were(processor: Path, name: str) -> None:
    assert resolve_dtype("auto", model=name, device="cpu") == "float32"


def test_the_width_of_a_wrapper_is_its_text_models(tmp_path: Path) -> None:
    assert width_of(Path(model(tmp_path, text_config={"hidden_size": 640}, hidden_size=1))) == 640
    assert width_of(Path(model(tmp_path))) == 0


def test_emulation_is_said_with_its_cost(processor: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compute.check_dtype("bfloat16", "cpu")
    processor.write_text(WITHOUT)
    compute.check_dtype("float32", "cpu")
    assert capsys.readouterr().err == ""
    compute.check_dtype("bfloat16", "cpu")
    said = capsys.readouterr().err
    assert "no products of it" in said and "--dtype float32" in said
    times = float(said.partition("takes ")[2].partition(" times")[0])
    assert times == pytest.approx(compute.emulation_cost(), abs=0.06)
    if not multiplies_bfloat16("cuda"):
        with pytest.raises(UsageError, match="'cuda' does not compute in it"):
            compute.check_dtype("bfloat16", "cuda")


def test_the_type_is_part_of_the_key() -> None:
    assert Settings(dtype="float32").keyed() != Settings(dtype="bfloat16").keyed()
