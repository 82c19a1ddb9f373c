"""'Is my step normal?': the forecast's own median is, twice the P90 is not, and the phase that is off is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mopdsim.base.errors import UsageError
from mopdsim.cli.main import app
from mopdsim.cost.constants import stack
from mopdsim.exchange.check_step import check, text

ROW = {
    "model": "Qwen3-8B", "gpu": "H100", "gpus": "32", "mean_tokens": "3000", "max_tokens": "8192",
    "samples_per_step": "1024", "mode": "On policy", "precision": "bf16", "step_s": "231",
}  # fmt: skip
VERL = stack("verl")


def judged(**changes: Any) -> dict[str, Any]:
    return check({**ROW, **{key: str(value) for key, value in changes.items()}}, VERL)


def test_the_median_is_normal_and_far_out_is_not() -> None:
    told = judged()
    assert told["p10"] < told["p50"] < told["p90"]
    middle = judged(step_s=told["p50"])
    assert middle["verdict"] == "normal" and middle["percentile"] == pytest.approx(50, abs=0.1)
    assert judged(step_s=told["p90"])["percentile"] == pytest.approx(90, abs=0.1)
    slow, fast = judged(step_s=2 * told["p90"]), judged(step_s=told["p10"] / 2)
    assert slow["verdict"] == "slow" and fast["verdict"] == "fast"
    assert slow["causes"] and fast["causes"] and slow["causes"] != fast["causes"]


def test_the_phase_that_is_off_is_named_with_its_usual_causes() -> None:
    told = judged()["phases"]
    expected = {phase: row["forecast_s"] for phase, row in told.items()}
    found = judged(
        generation_s=expected["generation"],
        old_logprob_s=expected["scoring"],
        update_s=3 * expected["training"],
        step_s=sum(expected.values()) + 2 * expected["training"],
    )
    assert found["phases"]["training"]["ratio"] == pytest.approx(3.0, rel=1e-3)
    assert found["phases"]["rest"]["ratio"] == pytest.approx(1.0, rel=1e-3)
    assert [cause.partition(":")[0] for cause in found["causes"]] == ["training"]
    assert "training" in text(found) and "3.00 times" in text(found)


def test_a_tuned_stack_expects_less() -> None:
    assert check(ROW, stack("megatron"))["p50"] < judged()["p50"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"step_s": 231_000}, "not milliseconds"),
        ({"step_s": 0}, "step_s is '0'"),
        ({"max_tokens": 2000}, "max_tokens = 2000 lies below mean_tokens = 3000"),
        ({"gpus": "many"}, "gpus is 'many'"),
        ({"mean_tokens": 0, "max_tokens": ""}, "mean_tokens is '0'"),
        ({"generation_s": -1}, "generation_s is '-1'"),
        ({"generation_s": 400, "step_s": 231}, "generation_s = 400 is more than step_s = 231"),
        ({"mode": "sideways"}, "mode = 'sideways' is not known: write it as in: On policy"),
        ({"precision": "int2"}, "precision = 'int2' is not known"),
    ],
)
def test_what_cannot_be_is_one_sentence(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        judged(**changes)


def test_an_error_names_the_flag_or_the_line(tmp_path: Path) -> None:
    flags = [
        "--model",
        "Qwen3-8B",
        "--gpu",
        "H100",
        "--gpus",
        "32",
        "--samples",
        "1024",
        "--mean-tokens",
        "3000",
    ]
    for changes, words in [
        (["--step-seconds", "0"], "^--step-seconds is '0.0'"),
        (
            ["--step-seconds", "231", "--max-tokens", "20"],
            "^--max-tokens = 20 lies below --mean-tokens = 3000",
        ),
        (["--step-seconds", "231000"], "^--step-seconds = 231000"),
        (["--step-seconds", "231", "--generation-seconds", "-2"], "^--generation-seconds is '-2.0'"),
    ]:
        with pytest.raises(UsageError, match=words):
            app(["check-step", *flags, *changes], standalone_mode=False)
    table = tmp_path / "steps.csv"
    row = {**ROW, "framework": "mine"}
    table.write_text(
        "\n".join([",".join(row), ",".join(row.values()), ",".join({**row, "step_s": "0"}.values())])
    )
    with pytest.raises(UsageError, match=r"^line 3: step_s is '0'"):
        app(["check-step", "--data", str(table)], standalone_mode=False)
