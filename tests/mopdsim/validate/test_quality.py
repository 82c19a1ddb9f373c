"""Published tables against the model: what is predicted, left out and refused, and that a study is not its
own judge.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mopdsim.base.errors import NotFoundError, UsageError
from mopdsim.validate import projects
from mopdsim.validate.quality import back_test, recovery_elsewhere, validate, verdict
from mopdsim.validate.quality_rows import COLUMNS, domain_of, read

HEADER = ",".join(COLUMNS) + ",grade\n"
GOOD = "study x,M,mixed_rl,math+code,math,40,60,55,percent,P\n"


def _table(tmp_path: Path, *rows: str) -> Path:
    path = tmp_path / "quality.csv"
    path.write_text("# comment\n" + HEADER + "".join(rows))
    return path


def test_the_shipped_table_is_predicted_from_other_studies_no_worse_than_by_simple_rules() -> None:
    found = validate()
    json.dumps(found, allow_nan=False)
    assert found["rows"] >= 80 and not found["refused"]
    assert 0.70 <= found["coverage_80"] <= 0.90
    assert len(found["by_study"]) == 4 and len(found["worse_than_rules"]) <= 1
    assert found["not_identified"]["cascade_rl"] == ["2606.30406"]
    assert found["baseline_mean_errors"]["no_change"] > 2 * found["mean_error"]


def test_mopd_against_mixed_rl_has_a_sign_and_an_interval_for_every_study() -> None:
    found = validate()["back_test"]
    assert found["wrong_beyond"] <= 1
    assert len(found["against_mixed_rl"]) == 5
    for sentence in found["against_mixed_rl"]:
        assert " to " in sentence and sentence.rpartition(": ")[2].partition(",")[0] in (
            "right",
            "wrong",
            "tie",
        )


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        ("swe_v", "swe"), ("SWE-bench Verified", "swe"), ("lcb_v6", "code"), ("LiveCodeBench_v5", "code"),
        ("tau_telecom", "tool_use"), ("tau2_telecom", "tool_use"), ("AIME24", "math"), ("aime_2025", "math"),
        ("gpqa_diamond", "knowledge"), ("ifbench", "if"), ("instruction_following", "if"), ("reasoning", "reasoning"),
    ],
)  # fmt: skip
def test_a_benchmark_is_known_by_its_usual_names(name: str, domain: str) -> None:
    assert domain_of(name, ("math", "code", "if", "swe", "tool_use", "reasoning")) == domain


def test_an_unknown_benchmark_is_refused_and_never_taken_for_untrained(tmp_path: Path) -> None:
    found = validate(_table(tmp_path, GOOD, GOOD.replace("code,math,", "code,swe_w,")))
    (refused,) = found["refused"]
    assert found["rows"] == 1 and "no domain or benchmark that mopd knows" in refused["reason"]
    assert "swe_v" in refused["reason"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (GOOD.replace("40,", "140,"), "must be from 0 to 100"),
        (GOOD.replace("40,", "nan,"), "must be from 0 to 100"),
        (GOOD.replace("40,", "forty,"), "must be a number"),
        (GOOD.replace("percent", "elo"), "unit 'elo'"),
        (
            GOOD.replace("mixed_rl", "merge_average").replace("40,", "41,"),
            "differ from the study's other rows",
        ),
        (GOOD.replace("mixed_rl,math+code", "single_domain,math"), "specialist's own score"),
    ],
)
def test_a_corrupted_row_is_refused_and_listed(tmp_path: Path, row: str, reason: str) -> None:
    found = validate(_table(tmp_path, GOOD, row))
    assert found["rows"] == 1 and len(found["refused"]) == 1 and reason in found["refused"][0]["reason"]


def test_what_has_no_recipe_or_level_is_listed_as_incomplete(tmp_path: Path) -> None:
    found = validate(
        _table(
            tmp_path,
            GOOD,
            GOOD.replace("mixed_rl", "telepathy"),
            GOOD.replace("60,", ","),
            GOOD.replace("percent", "points"),
        )
    )
    assert found["rows"] == 1 and len(found["incomplete"]) == 3


def test_bad_files_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="does not exist"):
        validate(tmp_path / "none.csv")
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match="column"):
        validate(other)
    with pytest.raises(UsageError, match="no row can be predicted"):
        validate(_table(tmp_path))


def test_project_totals_are_ranges_with_sources() -> None:
    found = projects.validate()
    json.dumps(found, allow_nan=False)
    assert found["rows"] >= 10 and len(found["incomplete"]) == 4
    for run in found["predictions"]:
        assert run["p10"] < run["p50"] < run["p90"] and len(run["source"]) > 10
    hermes = [run for run in found["predictions"] if run["model"].startswith("Hermes")]
    assert all(run["inside_80"] for run in hermes)
    assert found["coverage_80"] >= 0.6 and found["median_width"] <= 4.0
    widened = found["widened"]
    assert widened["coverage_80"] >= 0.7 and widened["median_width"] > found["median_width"]
    assert len(widened["log_sd_without_each"]) == found["rows"]


def test_the_shared_spread_is_recovered_and_never_negative() -> None:
    rng = np.random.default_rng(0)
    own = rng.uniform(0.2, 0.6, 4000)
    errors = np.hypot(own, 0.5) * rng.standard_normal(4000)
    assert projects.shared_log_sd(errors, own) == pytest.approx(0.5, abs=0.03)
    assert projects.shared_log_sd(0.5 * own, own) == 0.0


def test_mechanisms_of_project_presets_are_documented() -> None:
    presets = projects.presets()
    mechanisms = {"precision", "speculation", "packed", "fully_sharded", "recompute", "window"}
    for run in presets.values():
        assert ("mechanism_source" in run) == bool(mechanisms & set(run)), run["model"]


def test_a_project_without_preset_or_total_is_listed(tmp_path: Path) -> None:
    path = tmp_path / "totals.csv"
    head = "model,total_b,active_b,stage,gpu,gpus,gpu_hours,details,usd,source,grade\n"
    path.write_text(
        head
        + "Hermes 4 14B,14,14,sft,B200,,4454,,,x,Q\nOther,1,1,rl,H100,,10,,,x,Q\nThird,1,1,rl,H100,,,,,x,Q\n"
    )
    found = projects.validate(path)
    assert found["rows"] == 1 and [row["model"] for row in found["incomplete"]] == ["Other", "Third"]
    for hours in ("-4", "1e-308", "1e308"):
        path.write_text(head + f"Hermes 4 14B,14,14,sft,B200,,{hours},,,x,Q\n")
        with pytest.raises(UsageError, match=r"must be a finite number from 1e-06 to 1e\+15"):
            projects.validate(path)
    path.write_text(head + "Other,1,1,rl,H100,,,... petaflop/s-days,,x,Q\n")
    with pytest.raises(UsageError, match="no row has both"):
        projects.validate(path)


def test_verdicts_know_a_tie() -> None:
    assert verdict(2.0, 3.0, 1.0) == verdict(0.5, -0.9, 1.0) == "right"
    assert verdict(2.0, -3.0, 1.0) == "wrong" and verdict(0.5, 3.0, 1.0) == verdict(-2.0, 0.0, 1.0) == "tie"


def test_comparisons_are_over_shared_benchmarks_of_the_trained_set() -> None:
    """MOPD leads by 4 where it was said to lead by 2; what only one reports, or nobody trained, does not count."""
    about = {
        "study": "x",
        "model": "M",
        "trained_on": "math+code",
        "unit": "percent",
        "in_set": True,
        "points": 1,
    }
    rows = [
        {**about, "method": "mopd", "domain": "math", "p50": 52.0, "measured": 53.0},
        {**about, "method": "mopd", "domain": "code", "p50": 62.0, "measured": 65.0},
        {**about, "method": "mixed_rl", "domain": "math", "p50": 50.0, "measured": 50.0},
        {**about, "method": "mixed_rl", "domain": "code", "p50": 60.0, "measured": 60.0},
        {**about, "method": "mixed_rl", "domain": "aime", "p50": 99.0, "measured": 99.0},
        {**about, "method": "mixed_rl", "domain": "if", "p50": 99.0, "measured": 99.0, "in_set": False},
        {**about, "method": "mopd", "domain": "if", "p50": 1.0, "measured": 1.0, "in_set": False},
        {**about, "method": "merge_average", "domain": "math", "p50": 90.0, "measured": 9.0, "model": "N"},
    ]
    rows = [{**row, "line": line} for line, row in enumerate(rows)]
    spread_N = np.linspace(-0.01, 0.01, 101)
    drawn = [float(row["p50"]) / 100 + spread_N * (row["method"] == "mopd") for row in rows]  # type: ignore[arg-type]
    found = back_test(rows, [np.broadcast_to(each, (101,)) for each in drawn])
    (row,) = found["rows"]
    assert (row["lead_p10"], row["lead_p90"]) == pytest.approx((1.2, 2.8)) and row["beyond"]
    assert (row["mopd"], row["rival"], row["benchmarks"]) == ("mopd", "mixed_rl", 2)
    assert row["predicted_lead"] == pytest.approx(2.0) and row["measured_lead"] == pytest.approx(4.0)
    assert (found["comparisons"], found["right"], found["wrong"], found["tie"]) == (1, 1, 0, 0)


def test_every_published_comparison_of_mopd_is_called() -> None:
    found = validate()["back_test"]
    assert found["comparisons"] == found["right"] + found["wrong"] + found["tie"] >= 20
    pairs = [(row["study"], row["mopd"], row["rival"]) for row in found["rows"]]
    assert len(set(pairs)) == len(pairs) and {row["study"] for row in found["rows"]} >= {"2606.30406"}


def test_a_methods_recovery_comes_from_the_other_studies(tmp_path: Path) -> None:
    half = "study y,M,mixed_rl,math+code,math,40,60,50,percent,P\n"
    whole = "study y,M,merge_average,math+code,math,40,60,60,percent,P\n"
    rows, _, _ = read(_table(tmp_path, GOOD, half, whole, GOOD.replace("mixed_rl", "cascade_rl")))
    shares = [recovery_elsewhere(row, rows) for row in rows]
    assert shares == pytest.approx([0.5, 0.75, 0.75, 0.75])  # a method that others lack: all methods'
    assert recovery_elsewhere(rows[0], rows[:1]) == 1.0
