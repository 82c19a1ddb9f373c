"""Validation: the figures reached on the shipped tables, honesty about what is out of sample, and bad files."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mopdsim.base.documents import DATA, write_document
from mopdsim.base.errors import NotFoundError, UsageError
from mopdsim.cost.constants import KINDS, DecodeConstants, TrainConstants, parse, shipped
from mopdsim.fit.cost import calibrate, constants_document, fit, half_width
from mopdsim.validate.cost import LOADERS, symmetric_error, validate
from mopdsim.validate.tables import number, published, read_rows, resolve

DECODE_COLUMNS = (
    "model,backend,backend_version,system,precision,isl,osl,gemm_quant_mode,moe_quant_mode,concurrency,tp,pp,"
    "attention_dp,moe_tp,moe_ep,ttft_ms,tpot_ms,repeats"
)
SHARED_DECODE = Path(__file__).parents[4] / "shared" / "data" / "decode.csv"


def decode_file(path: Path, rows: list[str]) -> Path:
    path.write_text("\n".join(["# made for a test", DECODE_COLUMNS, *rows]) + "\n")
    return path


@cache
def shipped_report(kind: str) -> dict[str, Any]:
    """Of the table that ships; made once for all tests."""
    return validate(kind)


def edited(kind: str, path: Path, line: int, column: str, value: str) -> Path:
    """The shipped table with one cell changed; `line` counts data rows from 0."""
    lines = [text for text in published(kind).read_text().splitlines() if not text.startswith("#")]
    rows = list(csv.DictReader(lines))
    rows[line][column] = value
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue())
    return path


def test_symmetric_error() -> None:
    assert symmetric_error(np.array([2.0, 0.5, 1.0]), np.ones(3)).tolist() == [1.0, 1.0, 0.0]


def test_training_throughput_reaches_its_figures() -> None:
    report = shipped_report("train_throughput")
    assert report["rows"] == 258 and not report["refused"]
    assert report["by_sort"]["dense"]["median_error"] <= 0.12
    assert report["by_sort"]["moe"]["median_error"] <= 0.40
    family = report["schemes"]["leave one family out"]
    assert family["median_error"] <= 0.40
    assert set(family["by_suite"]) == {"MPT", "NVIDIA"}
    assert report["median_error"] < report["naive_median_error"]
    assert 0.70 <= report["coverage_80"] <= 0.90
    assert [entry["model"] for entry in report["unknown"]] == ["Nemotron_3_5_Lightning"]
    assert all(entry["p10"] < entry["p50"] < entry["p90"] for entry in report["incomplete"])


def test_rl_steps_reach_their_figures() -> None:
    report = shipped_report("rl_steps")
    assert report["rows"] == 30 and not report["refused"]
    assert report["basis"] == {"leave one model out": 30}
    assert report["median_error"] <= 0.13 and report["p90_error"] <= 0.40
    assert 0.65 <= report["coverage_80"] <= 0.90
    for scheme in ("leave one GPU out", "leave one framework out"):
        assert report["schemes"][scheme]["median_error"] <= 0.25
        assert 0.65 <= report["schemes"][scheme]["coverage_80"] <= 0.90
    directions = report["directions"]
    assert directions["right"] / directions["pairs"] >= 0.85
    assert len(directions["misses"]) == directions["pairs"] - directions["right"]
    assert report["naive_median_error"] > 1.0
    assert sum(entry["rows"] for entry in report["by_model"].values()) == 30


def test_fsdp_throughput_is_forecast_by_sharding_and_refit_alone() -> None:
    """No constant is fitted to these rows; those of RL trainers also write their weights."""
    report = validate("train_throughput", published("train_throughput_fsdp"))
    assert report["rows"] == 9 and report["median_error"] <= 0.30


@pytest.mark.skipif(not SHARED_DECODE.is_file(), reason="the measured decode table does not ship")
def test_decode_reaches_its_figures() -> None:
    report = validate("decode", SHARED_DECODE)
    halves = [summary for name, summary in report["schemes"].items() if name.startswith("half of the groups")]
    assert len(halves) == 4
    for half in halves:
        assert half["by_sort"]["dense"]["median_error"] <= 0.15
        assert half["by_sort"]["moe"]["median_error"] <= 0.25
    assert report["left_out"] == 118
    assert report["noise_floor"]["pairs"] > 100
    assert 0.70 <= report["coverage_80"] <= 0.90


def test_constants_are_one_per_effect() -> None:
    assert len(DecodeConstants.names()) <= 12
    kinds = json.loads((DATA / "cost_constants.json").read_text())["kinds"]
    for kind, fitted in shipped().items():
        assert fitted.grade == "fitted" and fitted.provenance
        for widths in fitted.log_error_80.values():
            assert widths["seen"] <= min(widths["new model"], widths["new gpu"])
        covariance = np.array(kinds[kind]["log_covariance"])
        assert np.all(np.linalg.eigvalsh(covariance) > 0), kind


def test_every_row_of_a_fitted_model_is_judged_without_it() -> None:
    for kind in ("train_throughput", "rl_steps"):
        held_out = shipped()[kind].held_out["leave one model out"]
        assert set(held_out) == set(shipped()[kind].models)
        whole = shipped()[kind].constants
        assert all(part.constants != whole for part in held_out.values())


def test_published_tflops_confirm_the_flop_count() -> None:
    """NVIDIA's TFLOP/s of pretraining follow from its tokens/s and our FLOPs per token; nothing is fitted."""
    ratios = []
    for line, row in read_rows(published("train_throughput"), ("model", "system", "kind")):
        if row["kind"] != "pretraining" or not row["model"].startswith(("LLAMA3", "Qwen3")):
            continue
        found, _ = resolve(row["model"], row["system"])
        length = number(row, "sequence", line)
        flops = 3 * found.forward_flops([length]) / length
        rate = number(row, "tokens_per_s_per_gpu", line)
        ratios.append(rate * flops / number(row, "published_tflops_per_gpu", line) / 1e12)
    assert len(ratios) > 100
    assert ratios == pytest.approx([1.0] * len(ratios), abs=0.025)


def test_a_row_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    rl = validate("rl_steps", edited("rl_steps", tmp_path / "rl.csv", 0, "step_s", "300"))
    assert rl["rows"] == 29 and "it must lie within" in rl["refused"][0]["reason"]
    path = edited("train_throughput", tmp_path / "train.csv", 3, "tokens_per_s_per_gpu", "20000")
    train = validate("train_throughput", path)
    assert train["rows"] == 257 and train["refused"][0]["line"] == 5
    path = edited("train_throughput", tmp_path / "train.csv", 3, "tp", "7")
    assert "multiple of" in validate("train_throughput", path)["refused"][0]["reason"]


def test_unknown_models_and_gpus_are_listed_and_left_out(tmp_path: Path) -> None:
    good = "Qwen/Qwen3-32B,vllm,1,h100_sxm,fp8,1024,512,fp8,fp8,16,4,1,1,4,1,100,11.0,1"
    rows = [good, good.replace("Qwen3-32B", "Qwen9-1T"), good.replace("h100_sxm", "z900")]
    report = validate("decode", decode_file(tmp_path / "d.csv", rows))
    assert report["rows"] == 1
    assert [entry["line"] for entry in report["unknown"]] == [4, 5]
    assert report["predictions"][0]["basis"] == "half of the groups, 0"
    assert report["predictions"][0]["low"] < report["predictions"][0]["predicted"]


def test_unseen_models_get_wider_intervals(tmp_path: Path) -> None:
    seen = "Qwen/Qwen3-32B,newbackend,1,h100_sxm,fp8,1024,512,fp8,fp8,16,4,1,1,4,1,100,11.0,1"
    unseen = seen.replace("Qwen3-32B", "Qwen3-14B")
    report = validate("decode", decode_file(tmp_path / "d.csv", [seen, unseen]))
    widths = [row["high"] / row["low"] for row in report["predictions"]]
    assert widths[0] < widths[1]
    assert {row["basis"] for row in report["predictions"]} == {"shipped constants"}


def test_rows_that_lack_an_input_are_predicted_as_a_distribution(tmp_path: Path) -> None:
    row = "Qwen/Qwen3-32B,vllm,1,h100_sxm,fp8,1024,512,fp8,fp8,,4,1,1,4,1,100,11.0,1"
    report = validate("decode", decode_file(tmp_path / "d.csv", [row]))
    assert report["rows"] == 0 and report["median_error"] is None
    (entry,) = report["incomplete"]
    assert entry["missing"] == ["concurrency"]
    assert entry["p10"] < entry["p50"] < entry["p90"]


def test_reports_are_plain_json(tmp_path: Path) -> None:
    for kind in ("train_throughput", "rl_steps"):
        document = json.loads(json.dumps(shipped_report(kind), allow_nan=False))
        wanted = {
            "rows",
            "incomplete",
            "refused",
            "coverage_80",
            "median_error",
            "p90_error",
            "naive_median_error",
        }
        assert wanted | {"by_model", "by_gpu", "predictions"} <= set(document)


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="does not exist"):
        validate("decode", tmp_path / "none.csv")
    with pytest.raises(NotFoundError, match="ships"):
        validate("decode")
    path = tmp_path / "bad.csv"
    path.write_text("model,backend\na,b\n")
    with pytest.raises(UsageError, match="lacks the columns"):
        validate("decode", path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="UTF-8"):
        validate("decode", path)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("1024,512", "many,512", "isl is 'many'"),
        ("1024,512", "1024,0", "osl is '0'"),
        ("11.0", "nan!", "tpot_ms is 'nan!'"),
        ("fp8,fp8", "int3,fp8", "weight format is 'int3'"),
    ],
)
def test_nonsense_in_a_cell_refuses_the_row(tmp_path: Path, old: str, new: str, reason: str) -> None:
    row = "Qwen/Qwen3-32B,vllm,1,h100_sxm,fp8,1024,512,fp8,fp8,16,4,1,1,4,1,100,11.0,1"
    report = validate("decode", decode_file(tmp_path / "d.csv", [row, row.replace(old, new)]))
    assert report["rows"] == 1
    assert reason in report["refused"][0]["reason"] and report["refused"][0]["line"] == 4


@pytest.mark.slow
@settings(max_examples=15)
@given(
    kind=st.sampled_from(["train_throughput", "rl_steps"]),
    line=st.integers(0, 17),
    column=st.integers(0, 18),
    value=st.sampled_from(["", "0", "-1", "1e300", "3", "7.5", "x", "[1,2]", "16:16", "nan", "tok/s/gpu=0"]),
)
def test_no_edit_of_a_cell_breaks_the_report(kind: str, line: int, column: int, value: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        header = next(csv.reader([published(kind).read_text().splitlines()[0]]))
        path = edited(kind, Path(directory) / "t.csv", line, header[column % len(header)], value)
        report = validate(kind, path)
    placed = sum(len(report[name]) for name in ("predictions", "incomplete", "unknown", "refused"))
    assert placed + report["left_out"] == len(published(kind).read_text().splitlines()) - 1
    json.dumps(report, allow_nan=False)


def simulated(kind: str, constants: Any, noise: float) -> list[Any]:
    """The shipped table's rows with seconds made by these constants."""
    loader = LOADERS[kind]
    rows = loader.load(published(kind)).rows
    made = loader.predict(loader.stacked(rows), constants)
    made = made * np.exp(noise * np.random.default_rng(3).standard_normal(len(made)))
    return [replace(row, measured=float(value)) for row, value in zip(rows, made, strict=True)]


def test_known_constants_are_recovered_from_simulated_measurements() -> None:
    truth = TrainConstants(
        flops_efficiency=0.6,
        precision_power=0.7,
        attention_efficiency=0.5,
        expert_overhead=3.0,
        elementwise_passes=150.0,
    )
    found = fit("train_throughput", simulated("train_throughput", truth, 0.02), LOADERS["train_throughput"])
    error = np.abs(found.constants.log() - truth.log())
    allowed = 4 * np.sqrt(np.diag(found.log_covariance)) + 0.02
    assert np.all(error <= allowed)
    strong = [
        TrainConstants.names().index(n) for n in ("flops_efficiency", "precision_power", "expert_overhead")
    ]
    assert np.all(error[strong] < 0.1)


def test_without_rows_the_prior_stays() -> None:
    assert fit("decode", [], LOADERS["decode"]).constants.log() == pytest.approx(DecodeConstants().log())


def test_half_width_covers_four_fifths() -> None:
    errors = np.random.default_rng(0).standard_normal(2000)
    assert half_width(errors) == pytest.approx(1.2816, rel=0.05)


def test_calibration_round_trips_through_its_file(tmp_path: Path) -> None:
    lines = published("train_throughput").read_text().splitlines()
    few = tmp_path / "few.csv"
    kept = [lines[0], *[line for line in lines if "LLAMA3" in line or "Qwen3_30B" in line][:60]]
    few.write_text("\n".join(kept) + "\n")
    entry = calibrate("train_throughput", few)
    write_document(tmp_path / "constants.json", constants_document("train_throughput", entry))
    kinds = json.loads((tmp_path / "constants.json").read_text())["kinds"]
    assert set(kinds) == set(KINDS)
    fitted = parse("train_throughput", kinds["train_throughput"])
    assert fitted == parse("train_throughput", entry)
    assert set(fitted.held_out) >= {"leave one model out", "leave one GPU out"}
    assert parse("decode", kinds["decode"]) == shipped()["decode"]
    report = validate("train_throughput", few, fitted=fitted)
    assert report["schemes"]["leave one GPU out"]["rows"] == report["rows"]


def test_a_table_of_fewer_rows_than_constants_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "few.csv"
    with pytest.raises(UsageError, match="at least 8"):
        path.write_text(published("train_throughput").read_text().splitlines()[0] + "\n")
        calibrate("train_throughput", path)


HEAD = "model,gpu,gpus,mode,mean_tokens,samples_per_step,step_s,framework,precision,max_tokens,train_parallel"


def a_row(mode: str = "On policy", parallel: str = "") -> str:
    return f'{HEAD}\nQwen3-30B-A3B,H100,32,{mode},3000,2048,190,NeMo-RL v0.6,BF16,4096,"{parallel}"\n'


def test_a_table_is_the_same_from_its_file_and_from_its_text(tmp_path: Path) -> None:
    path = tmp_path / "steps.csv"
    path.write_text(a_row())
    of_file, of_text = (LOADERS["rl_steps"].load(data) for data in (path, a_row()))
    assert [row.measured for row in of_file.incomplete + of_file.rows] == [
        row.measured for row in of_text.incomplete + of_text.rows
    ]
    assert of_file.refused == of_text.refused == []


@pytest.mark.parametrize("data", ["x" * 200_000, HEAD + "\n" + "x" * 200_000])
def test_a_cell_longer_than_any_table_has_is_said(data: str) -> None:
    with pytest.raises(UsageError, match="file is not a CSV table"):
        read_rows(data, ("model",))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (a_row(mode="fully async 0:0"), "at least one GPU each"),
        (a_row(mode="fully async 64:64"), "at most 32 in all"),
        (a_row(parallel="[0, 1, 1, 1, 1]"), "every degree must be a whole number from 1"),
    ],
)
def test_a_row_that_no_run_can_have_is_refused_with_the_reason(row: str, reason: str) -> None:
    (refused,) = LOADERS["rl_steps"].load(row).refused
    assert reason in refused["reason"]


def test_degrees_that_are_no_numbers_are_those_of_the_smallest_layout() -> None:
    assert not LOADERS["rl_steps"].load(a_row(parallel="[null, {}, 1, 1, 1]")).refused
