"""An export: complete or absent, in the graph's order, refused by name; its scripts say what this package says."""

from __future__ import annotations

import importlib.util
import json
import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mopdsim.base.errors import MopdError, UsageError
from mopdsim.cli.exchange_command import request_of
from mopdsim.exchange import export
from mopdsim.exchange.engines.parts import Job, Request
from mopdsim.exchange.tasks import ONE_ANSWER, REPAIRED, read_tasks
from mopdsim.forecast.scenario import load, of_recipe
from tools import tables
from trainer.tasks import FAMILIES, gym, task

ROOT = Path(__file__).parents[3]
SLIPS = 40
GYM = [
    "reasoning_gym:basic_arithmetic",
    "reasoning_gym:chain_sum?extract=number",
    "reasoning_gym:letter_counting?extract=line",
    "reasoning_gym:simple_equations?extract=tags",
    "reasoning_gym:spell_backward",
]


def request(recipe: str, domains: list[str], **settings: Any) -> Request:
    return request_of(of_recipe(recipe, domains=domains, **settings), "/models/base", None, None)


def exported(tmp_path: Path, made: Request, engines: list[str]) -> Path:
    out = tmp_path / "out"
    export.write(out, made, export.jobs_of(made, engines))
    return out


def reward_module(out: Path) -> Any:
    spec = importlib.util.spec_from_file_location("exported_reward", out / "reward.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", sorted(ONE_ANSWER))
def test_a_domain_called_so_has_one_right_answer(name: str) -> None:
    domain, rng = task(name), random.Random(0)
    for item in domain.stream("train", 0, SLIPS, seed=0):
        letters = sorted(set(item.answer) | set(item.prompt))
        slips = [item.answer, item.answer[::-1], item.answer[1:], item.answer * 2, ""]
        slips += ["".join(rng.sample(item.answer, len(item.answer))) for _ in range(5)]
        slips += ["".join(rng.choices(letters, k=len(item.answer))) for _ in range(5)]
        for response in slips:
            assert domain.grade(item, (response,)) == float(response == item.answer), (item, response)


def test_domains_with_several_right_answers_are_not_called_so() -> None:
    assert {"program", "guess", "brackets"} <= set(FAMILIES) - ONE_ANSWER


def test_families_whose_grader_this_trainer_repairs_are_known() -> None:
    repaired = gym.EVALUATES_LITERALS | gym.EVALUATES_ARITHMETIC | gym.PAYS_FOR_NEARNESS | gym.PAYS_FOR_DIGITS
    assert repaired | gym.REJECTS_BY_RAISING.keys() == REPAIRED


def test_the_exported_verifiers_score_as_the_tasks_do(tmp_path: Path) -> None:
    rows = [("2 + 2?", "4"), ("a thousand?", "1,000"), ("pi?", "3.14")]
    text = "".join(json.dumps({"prompt": p, "answer": a, "split": "train"}) + "\n" for p, a in rows)
    (tmp_path / "rows.jsonl").write_text(text)
    patterns = "".join(
        json.dumps({"prompt": p, "answer": a, "split": "train"}) + "\n" for p, a in [("x", "a+b?")]
    )
    (tmp_path / "patterns.jsonl").write_text(patterns)
    specs = [
        "sort",
        *GYM,
        *(f"jsonl:{tmp_path}/rows.jsonl?verifier={verifier}" for verifier in ("exact", "numeric")),
        f"jsonl:{tmp_path}/patterns.jsonl?verifier=regex",
    ]
    out = exported(tmp_path, request("mixed_rl", specs), ["trl"])
    grade = reward_module(out).grade
    for spec in specs:
        domain = task(spec)
        for item in domain.stream("train", 0, 8, seed=0):
            about = dict(item.data)
            if spec in GYM:
                about |= {"family": spec.partition(":")[2].partition("?")[0], "extract": domain.extract}
            for response in (
                item.answer,
                f" {item.answer} ",
                "so it is 4",
                "<answer>4</answer>",
                f"<answer>{item.answer}</answer> or -3",
                f"it is\n{item.answer}",
                "1/2 of 8, 50%",
                "1000",
                "aab",
                "",
                "3.140",
                item.answer[::-1],
            ):
                assert grade(spec, response, item.answer, about) == domain.grade(item, (response,)), (
                    spec,
                    response,
                )


def test_rows_stand_in_the_order_of_the_steps_with_their_shares(tmp_path: Path) -> None:
    made = request("cascade_rl", ["sort", "reverse"], options={"replay": 0.3})
    out = exported(tmp_path, made, ["trl"])
    code = [sys.executable, str(out / "prepare_data.py"), "step_2"]
    subprocess.run(code, check=True, env={"PYTHONPATH": str(Path.cwd()), "PATH": ""})
    rows = [json.loads(line) for line in (out / "data" / "step_2.jsonl").read_text().splitlines()]
    amounts = made.recipe.amounts["step_2"]
    assert len(rows) == amounts.steps * amounts.prompts_per_step
    for step in range(1, amounts.steps + 1):
        seen = sum(row["domain"] == "reverse" for row in rows[: step * amounts.prompts_per_step])
        assert abs(seen - 0.7 * step * amounts.prompts_per_step) < 1
    items = task("reverse").stream("train", 0, 3, seed=0)
    found = [row for row in rows if row["domain"] == "reverse"][:3]
    assert [row["prompt"][0]["content"] for row in found] == [item.prompt for item in items]
    assert not (out / "data" / "step_1.jsonl").exists()


@pytest.mark.parametrize("engine", [pytest.param("verl", marks=pytest.mark.slow), "nemo-rl"])
def test_rows_of_engines_that_run_on_gpus(tmp_path: Path, engine: str) -> None:
    import pandas

    scenario = of_recipe(
        "mopd",
        domains=["sort", "reverse"],
        model="Qwen3-8B",
        gpu="H100",
        gpus=64,
        options={"loss": "sampled_token"},
    )
    made = request_of(scenario, "/m", None, None)
    tasks = {name: replace(one, agent=f"{name}_agent") for name, one in made.tasks.items()}
    made = replace(made, tasks=tasks if engine == "nemo-rl" else made.tasks)
    out = tmp_path / "out"
    export.write(out, made, [export.job_of(made, made.recipe.stage["student"], [engine])])
    code = [sys.executable, str(out / "prepare_data.py")]
    subprocess.run(code, check=True, env={"PYTHONPATH": str(Path.cwd()), "PATH": ""})
    amounts = made.recipe.amounts["student"]
    if engine == "verl":
        rows = pandas.read_parquet(out / "data" / "student.parquet").to_dict("records")
        assert {(row["data_source"], row["teacher"]) for row in rows} == {
            ("sort", "teacher_1"),
            ("reverse", "teacher_2"),
        }
        row = rows[0]
        held = pandas.read_parquet(out / "data" / "student_held_out.parquet").to_dict("records")
        assert not row["extra_info"]["rewarded"] and held[0]["extra_info"]["rewarded"]
        answer = row["reward_model"]["ground_truth"]
        own = reward_module(out)
        assert own.compute_score(row["data_source"], answer, answer, row["extra_info"]) == 0.0
        assert (
            own.compute_score(row["data_source"], answer, answer, {**row["extra_info"], "rewarded": True})
            == 1.0
        )
    else:
        rows = [json.loads(line) for line in (out / "data" / "student.jsonl").read_text().splitlines()]
        assert {row["agent_ref"]["name"] for row in rows} == {"sort_agent", "reverse_agent"}
    assert len(rows) == amounts.steps * amounts.prompts_per_step
    assert list((out / "data").glob("student_held_out.*"))


def test_a_folder_holds_every_stage_in_the_order_of_the_graph(tmp_path: Path) -> None:
    made = request("merge", ["sort", "reverse", "shift"])
    out = exported(tmp_path, made, ["trl", "mergekit"])
    manifest = json.loads((out / "manifest.json").read_text())
    assert list(manifest["stages"]) == [stage.name for stage in made.recipe.stages]
    assert manifest["stages"]["merged"]["engine"] == "mergekit"
    assert manifest["stages"]["merged"]["needs"] == ["teacher_1", "teacher_2", "teacher_3"]
    run = (out / "run_all.sh").read_text()
    places = [run.index(f"bash {name}/run.sh") for name in manifest["stages"]]
    assert places == sorted(places)
    for script in [out / "run_all.sh", *out.glob("*/run.sh")]:
        subprocess.run(["bash", "-n", str(script)], check=True)
    for script in out.rglob("*.py"):
        compile(script.read_text(), str(script), "exec")


def test_an_existing_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(UsageError, match="already exists: give a new folder"):
        exported(tmp_path, request("mixed_rl", ["sort"]), ["trl"])
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"]


def test_a_failure_to_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mopdsim.exchange.export.os.rename", full)
    with pytest.raises(MopdError, match="No space left"):
        exported(tmp_path, request("mixed_rl", ["sort"]), ["trl"])
    assert list(tmp_path.iterdir()) == []


REFUSED: list[tuple[str, str, list[str], dict[str, Any], str]] = [
    ("trl", "mixed_rl", ["sort"], {"curriculum": "staged"}, "curriculum"),
    ("trl", "mixed_rl", ["sort", "shift"], {"reward_weights": {"sort": 2.0}}, "reward_weights"),
    ("trl", "mixed_rl", ["sort"], {"advantage_scale": "domain"}, "advantage_scale"),
    ("trl", "mixed_rl", ["program"], {}, "domains"),
    ("trl", "mixed_rl", ["sort?reward_noise=0.1"], {}, "domains"),
    ("trl", "mixed_rl", ["reasoning_gym:countdown"], {}, "domains"),
    ("trl", "mixed_rl", ["math"], {}, "domains"),
    ("trl", "mopd", ["sort"], {"balance": "token_share"}, "balance"),
    ("trl", "mopd", ["sort"], {"extrapolation": 1.25}, "extrapolation"),
    ("trl", "mopd", ["sort"], {"loss": "top_k_reverse_kl"}, "loss"),
    ("trl", "mopd", ["sort"], {"loss": "sampled_token"}, "loss"),
    ("trl", "mopd", ["sort", "shift"], {"misrouting": 0.1}, "misrouting"),
    ("trl", "mopd", ["sort", "shift"], {}, "teachers"),
    ("trl", "mopd", ["sort"], {"reward_mix": 0.5}, "reward_mix"),
    ("trl", "off_policy", ["sort"], {}, "on_policy"),
    ("trl", "merge", ["sort", "shift"], {}, "kind"),
    ("trl", "instructgpt", ["sort"], {}, "kind"),
    ("mergekit", "mixed_rl", ["sort"], {}, "kind"),
    ("verl", "mixed_rl", ["sort"], {}, "gpu"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("engine", "recipe", "domains", "options", "key"), REFUSED, ids=lambda case: str(case)[:24]
)
def test_what_cannot_be_said_is_refused_in_one_sentence(
    engine: str, recipe: str, domains: list[str], options: dict[str, Any], key: str
) -> None:
    made = request(recipe, domains, options={**options, "amounts": "tiny"})
    with pytest.raises(UsageError) as caught:
        export.jobs_of(made, [engine])
    sentence = str(caught.value)
    assert re.fullmatch(rf"stage '\w+': {key} = [^\n]+: {engine} cannot say this: [^\n]+", sentence), sentence


def test_what_a_changed_domain_or_stage_takes_with_it() -> None:
    recipe = request("mopd", ["sort", "reverse", "shift"], options={"rounds": 2}).recipe
    assert export.changed(recipe, "shift") == ("r2_teacher_3", "r2_student")
    assert export.changed(recipe, "r1_teacher_3")[0] == "r1_student" and "r2_student" in export.changed(
        recipe, "r1_teacher_3"
    )
    with pytest.raises(MopdError, match="neither a domain nor a stage"):
        export.changed(recipe, "shfit")


def test_paths_are_seen_from_where_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = json.dumps({"prompt": "1 + 1?", "answer": "2", "split": "train"})
    (tmp_path / "rows.jsonl").write_text(row + "\n" + row.replace("1 +", "2 +").replace('"2"', '"3"') + "\n")
    (tmp_path / "tasks.toml").write_text('[sort]\ndata = "own.jsonl"\nreward = "own.py:grade"\n')
    monkeypatch.chdir(tmp_path)
    spec = "jsonl:rows.jsonl?verifier=numeric"
    made = request_of(of_recipe("mixed_rl", domains=[spec, "sort"]), "/m", None, Path("tasks.toml"))
    assert made.tasks["sort"].source == str(tmp_path / "own.jsonl")
    assert made.tasks["sort"].own_reward == f"{tmp_path}/own.py:grade"
    assert made.tasks[spec].spec == f"jsonl:{tmp_path}/rows.jsonl?verifier=numeric"
    (tmp_path / "own.jsonl").write_text('{"prompt": "ba", "answer": "ab"}\n')
    out = exported(tmp_path, made, ["trl"])
    code = [sys.executable, str(out / "prepare_data.py")]
    subprocess.run(code, check=True, env={"PYTHONPATH": str(ROOT), "PATH": ""}, cwd="/")
    rows = [json.loads(line) for line in (out / "data" / "mixed.jsonl").read_text().splitlines()]
    assert {row["domain"] for row in rows} == {spec, "sort"}


BAD_TASKS = {
    "[shift]\nreward = 'x'": "no domain of the recipe|must name a file and a function",
    "sort = 1": "must be a table",
    "[sort]\nrewrad = 'a.py:f'": "did you mean 'reward'",
    "[sort]\ndata = 'rows.csv'": r"\.jsonl or \.parquet",
    "[sort]\nmax_response_tokens = 0": "whole number from 1",
    "[sort": "not valid TOML",
}


@pytest.mark.parametrize("text", BAD_TASKS)
def test_a_bad_tasks_file_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "tasks.toml").write_text(text)
    with pytest.raises(UsageError, match=BAD_TASKS[text]):
        request_of(of_recipe("mixed_rl", domains=["sort"]), "/m", None, tmp_path / "tasks.toml")


def test_a_missing_tasks_file_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(MopdError, match="no such file; give a TOML file"):
        read_tasks(tmp_path / "none.toml")


def test_every_recipe_is_said_or_refused_by_name() -> None:
    for name, made in tables.requests():
        for engine, stages in tables.cells(made).items():
            for stage, one in stages.items():
                if isinstance(one, str):
                    assert one.startswith(f"stage {stage!r}: ") and f"{engine} cannot say this: " in one, (
                        name,
                        one,
                    )
                else:
                    assert isinstance(one, Job) and one.files and one.engine == engine


def test_the_example_of_the_documentation_is_exported(tmp_path: Path) -> None:
    folder = Path("docs") / "engines"
    made = request_of(load(folder / "eight_domains.toml"), "/m", None, folder / "eight_domains_tasks.toml")
    out = exported(tmp_path, made, ["verl"])
    slurm = (out / "slurm.sh").read_text()
    assert slurm.count("--nodes=8 ") == 8 and slurm.count("--nodes=64 ") == 1
    subprocess.run(["bash", "-n", str(out / "slurm.sh")], check=True)
    assert [line.split()[2] for line in export.to_rerun(made.recipe, "swe")] == [
        "teacher_swe/DONE",
        "student/DONE",
    ]


def test_weights_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--weights is missing"):
        request_of(of_recipe("mixed_rl", domains=["sort"]), None, None, None)


def test_steps_of_several_updates_keep_their_rows() -> None:
    made = request("mixed_rl", ["sort"])
    stage = made.recipe.stages[0].model_copy(update={"updates_per_batch": 4})
    recipe = made.recipe.model_copy(update={"stages": (stage,)})
    several = replace(made, scenario=replace(made.scenario, recipe=recipe))
    once, four = (
        json.loads(export.jobs_of(one, ["trl"])[0].files["config.json"])["arguments"]
        for one in (made, several)
    )
    assert four["max_steps"] == 4 * once["max_steps"]

    def batch(row: dict[str, int]) -> int:
        return row["per_device_train_batch_size"] * row["steps_per_generation"]

    assert batch(four) == batch(once) == 256
