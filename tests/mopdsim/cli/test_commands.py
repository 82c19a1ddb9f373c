"""The simulator's verbs as a user types them: JSON documents, flags on files, bad input with its exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mopdsim.base.errors import MopdError
from mopdsim.cli import main
from mopdsim.cli.commands import LINES

RUN = CliRunner()


def output(*args: str) -> str:
    result = RUN.invoke(main.app, list(args), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return str(result.stdout)


def failure(*args: str) -> MopdError:
    with pytest.raises(MopdError) as caught:
        RUN.invoke(main.app, list(args), catch_exceptions=False)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("verb", ["gpus", "models", "recipes"])
def test_lists(verb: str) -> None:
    assert json.loads(output(verb, "--json"))
    assert len(output(verb).splitlines()) > 5


@pytest.mark.parametrize("verb", [verb.__name__ for verb in main.VERBS] + ["recipes", "check"])
def test_help_has_an_example(verb: str) -> None:
    assert "Example: mopd" in output(verb, "--help").replace("\n", " ")


def test_forecast_document_and_flags() -> None:
    document = json.loads(
        output("forecast", "mopd", "--domains", "math,code", "--amounts", "small", "--json")
    )
    assert {"recipe", "gpu_hours", "usd", "days", "fits", "stages", "scores", "warnings"} <= set(document)
    assert set(document["scores"]) == {"math", "code"}
    for total in ("gpu_hours", "usd", "days"):
        assert 0 < document[total]["p10"] <= document[total]["p50"] <= document[total]["p90"]


def test_gpus_as_a_flag_make_one_pool_of_a_files_pools() -> None:
    path = "studies/scenarios/two_rounds_twelve_teachers.toml"
    found = json.loads(output("forecast", path, "--gpus", "256", "--draws", "20", "--json"))
    assert list(found["pools"].values()) == [256]
    assert {row["pool"] for row in found["stages"]} == set(found["pools"])
    assert all(0 < row["gpus"] <= 256 for row in found["stages"])


def test_the_package_runs_as_the_command() -> None:
    command = [sys.executable, "-m", "mopdsim.cli"]
    listed = subprocess.run([*command, "gpus", "--json"], capture_output=True, text=True, check=True)
    assert json.loads(listed.stdout) == json.loads(output("gpus", "--json"))
    wrong = subprocess.run([*command, "forecast", "mopt"], capture_output=True, text=True)
    assert wrong.returncode == 3 and "did you mean 'mopd'?" in wrong.stderr


def test_a_written_scenario_gives_the_same_forecast(tmp_path: Path) -> None:
    path = tmp_path / "resolved.toml"
    first = output(
        "forecast", "mixed_rl", "--domains", "math,if", "--gpus", "128", "--write", str(path), "--json"
    )
    assert json.loads(output("forecast", str(path), "--json")) == json.loads(first)
    more = json.loads(output("forecast", str(path), "--gpus", "256", "--json"))
    assert sum(more["pools"].values()) == 256


def test_the_training_command_s_recipe_file_is_forecast(tmp_path: Path) -> None:
    from mopdsim.recipes import catalogue, recipe_file

    path = tmp_path / "recipe.toml"
    path.write_text(recipe_file.dump(catalogue.mopd(["sort", "shift"], rounds=2)))
    assert set(json.loads(output("forecast", str(path), "--json"))["scores"]) == {"sort", "shift"}


def test_compare_names_a_verdict_for_every_measure() -> None:
    document = json.loads(output("compare", "mixed_rl", "mopd", "merge", "--domains", "math,code", "--json"))
    assert set(document["against_baseline"]) == {"mopd", "merge"}
    found = document["against_baseline"]["mopd"]["mean_score"]
    assert found["verdict"] in ("mixed_rl", "mopd", "tie") and 0 <= found["probability_better"] <= 1


@pytest.mark.parametrize(
    "kind",
    [
        "published",
        "project_totals",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("train_throughput", "rl_steps", "quality")),
    ],
)
def test_validate_reports(kind: str) -> None:
    document = json.loads(output("validate", kind, "--json"))
    assert document["rows"] == len(document["predictions"])
    assert 0 <= document["coverage_80"] <= 1


QUESTION = "studies/questions/tiny_three_domains.toml"


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("forecast", "mpod"), 3, "did you mean 'mopd'"),
        (("forecast", "nowhere.toml"), 3, "nowhere.toml"),
        (("forecast", "mopd", "--gpu", "H1000"), 3, "H1000"),
        (("forecast", "mopd", "--model", "Qwen4"), 3, "Qwen4"),
        (("forecast", "mopd", "--gpus", "0"), 2, "gpus"),
        (("forecast", "mopd", "--budget", "nan"), 2, "budget"),
        (("forecast", "mopd", "--domains", "mth"), 3, "mth"),
        (("compare", "mopd"), 2, "at least two"),
        (("compare", "--all", QUESTION, "--planned", "nowhere.json"), 3, "nowhere.json"),
        (("compare", "--all", QUESTION, "--planned", QUESTION), 2, "give the file"),
        (("plan", "--budget", "1e5"), 2, "--domains is missing"),
        (("export", "mopd", "--to", "vrl"), 3, "did you mean 'verl'"),
        (("export", "mopd", "--to", ""), 2, "a name is empty"),
        (("validate", "rl_steps", "--data", "nowhere.csv"), 3, "nowhere.csv"),
        (
            (
                "forecast",
                "mopd",
                "--model",
                "DeepSeek-V3",
                "--gpu",
                "H100",
                "--gpus",
                "1",
                "--domains",
                "math",
            ),
            5,
            "H100",
        ),
        (("forecast", "mopd", "--model", "DeepSeek-V3"), 2, "--domains is missing"),
        (("compare", "deepseek_r1", "mimo_v2_flash", "--model", "Qwen3-8B"), 2, "--domains is missing"),
        (("plan", "--domains", "sort,shift"), 2, "no limit"),
    ],
)
def test_bad_input(args: tuple[str, ...], code: int, words: str) -> None:
    error = failure(*args)
    assert error.exit_code == code and words in str(error)


def test_a_file_of_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "new.toml"
    path.write_text('schema_version = 99\nrecipe = "mopd"\ndomains = ["math"]\n')
    assert "99" in str(failure("forecast", str(path)))


def test_ten_thousand_stages_are_refused_at_once(tmp_path: Path) -> None:
    stage = '[[stages]]\nkind = "rl"\nname = "s{}"\ndomains = {{ math = 1.0 }}\n'
    path = tmp_path / "long.toml"
    path.write_text('name = "long"\ndomains = ["math"]\n' + "".join(stage.format(n) for n in range(10_000)))
    error = failure("forecast", str(path))
    assert error.exit_code == 2 and "10000 stages" in str(error)


def test_a_published_system_forecasts_at_its_own_scale_unless_another_is_asked_for() -> None:
    own = json.loads(output("forecast", "deepseek_r1_zero", "--draws", "50", "--json"))
    assert own["amounts"] == "published" and own["gpu"] == "H800" and own["pools"] == {"pool": 512}
    fewer = json.loads(output("forecast", "deepseek_r1_zero", "--gpus", "256", "--draws", "50", "--json"))
    assert fewer["amounts"] == "published" and fewer["pools"] == {"pool": 256}
    for flags in (("--domains", "sort,shift"), ("--model", "tiny"), ("--amounts", "tiny")):
        other = json.loads(output("forecast", "deepseek_r1_zero", *flags, "--draws", "50", "--json"))
        assert other["amounts"] == "tiny" and other["model"] == "tiny"


@pytest.mark.slow
def test_compare_all_in_one_document() -> None:
    document = json.loads(output("compare", "--all", "--budget-flops", "1e12", "--draws", "20", "--json"))
    assert document["budget_flops"] == 1e12 and len(document["rows"]) == 13
    assert "worst domain" in output("compare", "--all", "--draws", "20")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("compare", "mopd", "merge", "--all"), "--all compares every recipe"),
        (("compare", "mopd", "merge", "--budget-flops", "1e12"), "belongs to --all"),
        (("compare", "--all", "--budget-flops", "0"), "budget_flops"),
        (("validate", "published", "--data", "x.csv"), "leave it out"),
    ],
)
def test_flags_that_do_not_go_together(args: tuple[str, ...], words: str) -> None:
    error = failure(*args)
    assert error.exit_code == 2 and words in str(error)


def test_calibrate_cost_takes_the_kind_from_the_columns(tmp_path: Path) -> None:
    from mopdsim.cli.commands import cost_kind
    from mopdsim.validate.tables import published

    for kind in ("train_throughput", "rl_steps"):
        assert cost_kind(published(kind)) == kind
    path = tmp_path / "other.csv"
    path.write_text("colour,size\nred,3\n")
    error = failure("calibrate", "cost", "--data", str(path))
    assert error.exit_code == 2 and "rl_steps: framework" in str(error)


QUESTIONS = [Path("studies/questions") / name for name in ("tiny_three_domains.toml", "known_conflict.toml")]
SMALL = """
domains = ["sort", "reverse"]
deadline_days = 0.02
max_rounds = 1
families = ["mixed_rl", "mopd", "merge"]
"""


@pytest.mark.parametrize(
    "question",
    [
        pytest.param(SMALL, id="small"),
        *(pytest.param(path.read_text(), id=path.stem, marks=pytest.mark.slow) for path in QUESTIONS),
    ],
)
def test_plan_and_compare_all_give_one_answer_to_a_question(question: str, tmp_path: Path) -> None:
    file = tmp_path / "question.toml"
    file.write_text(question)
    flags = (str(file), "--draws", "32", "--json")
    planned = json.loads(output("plan", *flags))
    ranked = json.loads(output("compare", "--all", *flags))
    assert ranked["headline"] == planned["headline"] and len(planned["headline"].split()) <= 25
    plans = [planned["recommended"], *planned["alternatives"]]
    assert [row["name"] for row in ranked["finalists"]] == [plan["name"] for plan in plans]
    for row, plan in zip(ranked["finalists"], plans, strict=True):
        assert all(row[key] == plan[key] for key in ("value", "utility", "usd", "days", "worst_score"))
    assert ranked["systems"] and all(row["usd"]["p50"] > 0 for row in ranked["systems"])


@pytest.mark.parametrize("recipe", ["mimo_v2_flash", "deepseek_v4", "llama3"])
def test_a_long_forecast_fits_a_screen_and_its_details_have_the_rest(recipe: str) -> None:
    short, whole = (
        output("forecast", recipe, "--draws", "50", *flags).splitlines() for flags in ((), ("--details",))
    )
    assert len(short) <= LINES < len(whole)
    assert short[:5] == whole[:5] and short[-1].startswith("--details shows")
    for line in short[:-1]:
        assert line in whole or line.startswith(("stages", "scores"))


def test_a_short_forecast_is_whole() -> None:
    flags = ("forecast", "mixed_rl", "--draws", "50")
    assert output(*flags) == output(*flags, "--details")
