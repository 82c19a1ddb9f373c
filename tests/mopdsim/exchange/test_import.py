"""Logs of five engines and four containers say the same numbers; damaged ones lose what is damaged, and say so."""

from __future__ import annotations

import csv
import json
import math
import random
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner
from write_logs import GPUS, SAMPLES, STEPS, measured

from mopdsim.base.errors import MopdError, NotFoundError, UsageError
from mopdsim.cli.main import app
from mopdsim.exchange import importing
from mopdsim.exchange.importing import Context, context_of, imported
from mopdsim.exchange.steps import Steps
from mopdsim.fit.forest import load as load_forest
from mopdsim.validate import rl_rows

LOGS = Path(__file__).parent / "logs"
VERL = "verl.jsonl"
ENGINE = {
    "verl.jsonl": "verl",
    "verl_console.log": "verl",
    "verl_tensorboard": "verl",
    "nemo_rl_console.log": "nemo-rl",
    "nemo_rl_tensorboard": "nemo-rl",
    "tinker.jsonl": "tinker",
    "prime_rl.jsonl": "prime-rl",
}
WORK = {"verl": [2, 3, 5, 6, 7]}  # verl's steps 4 and 8 hold an evaluation


SEEDS = [
    path.read_bytes()[:2000] for path in sorted(LOGS.rglob("*")) if path.is_file()
]  # the beginnings of real logs


def found(path: Path, engine: str = "auto") -> Steps:
    (run,) = imported(path, Context(), engine=engine)
    return run.found


@pytest.mark.parametrize("name", ENGINE)
def test_every_engine_and_container_gives_the_numbers_that_were_logged(name: str) -> None:
    steps, engine = found(LOGS / name), ENGINE[name]
    assert steps.engine == engine and not steps.dropped
    expected = [measured(step) for step in WORK.get(engine, range(2, STEPS + 1))]
    assert len(steps.work) == len(expected)
    ours = {
        "step_s": "step",
        "update_s": "update",
        "sync_s": "sync",
        "score": "score",
        "mean_tokens": "length",
    }
    ours |= {"entropy": "entropy", "tokens_per_s_per_gpu": "rate"}
    seen = 0
    for column, key in ours.items():
        if steps.median(column) is not None:
            seen += 1
            middle = statistics.median(row[key] for row in expected)
            assert steps.median(column) == pytest.approx(middle, rel=5e-3), column
    assert seen >= 4
    if engine == "prime-rl":
        assert steps.asynchronous and steps.median("generation_s") is None and steps.median("wait_s")
    else:
        generation = statistics.median(row["gen"] for row in expected)
        assert steps.median("generation_s") == pytest.approx(generation, rel=5e-3)


@pytest.mark.parametrize("name", ["trl", "trl_distill.json", "trl_console.log"])
def test_a_log_that_trl_wrote(name: str) -> None:
    steps = found(LOGS / name)
    assert steps.engine == "trl" and [step.kind for step in steps.steps] == ["warm-up", "work"]
    assert 0 < (steps.median("step_s") or 0) < 10 and 1 <= (steps.median("mean_tokens") or 0) <= 16
    assert steps.median("step_tokens")


def test_evaluations_are_told_apart_and_kept() -> None:
    steps = found(LOGS / VERL)
    assert [step.step for step in steps.steps if step.kind == "evaluation"] == [4, 8]
    assert sorted(steps.scores) == [0, 4, 8]


def test_an_asynchronous_trainers_generation_is_a_wait(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (LOGS / VERL).read_text().splitlines()]
    for row in rows:
        row["data"]["timing_s/param_sync"] = 1.0
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    steps = found(tmp_path / "a.jsonl")
    assert steps.asynchronous and steps.median("generation_s") is None
    assert steps.median("wait_s") == found(LOGS / VERL).median("generation_s")


Damage = Callable[[list[str]], list[str]]


def _set(number: int, key: str, text: str) -> Damage:
    """The line's value of a key replaced by a text."""

    def damage(lines: list[str]) -> list[str]:
        row = json.loads(lines[number])
        row["data"][key] = "@"
        return [*lines[:number], json.dumps(row).replace('"@"', text), *lines[number + 1 :]]

    return damage


def _row(text: str, at: int = 3) -> Damage:
    return lambda lines: [*lines[:at], text, *lines[at:]]


OTHER = json.dumps({"step": 3, "data": {"completions/mean_length": 3.0, "num_tokens": 3}})
DAMAGED: dict[str, tuple[Damage, str]] = {  # what is done to verl's lines, the reason counted ("": nothing lost)
    "last line cut": (lambda lines: [*lines[:-1], lines[-1][:200]], "line that is not JSON"),
    "first line cut": (lambda lines: [lines[0][30:], *lines[1:]], "line that is not JSON"),
    "middle line cut": (lambda lines: [*lines[:4], lines[4][:99], *lines[5:]], "line that is not JSON"),
    "two lines run together": (lambda lines: [*lines[:2], lines[2] + lines[3], *lines[4:]], "line that is not JSON"),
    "a line of text": (_row("Traceback (most recent call last):"), "line that is not JSON"),
    "binary in the middle": (_row("\x00\x01\ufffd\x7f"), "line that is not JSON"),
    "nested without end": (_row("[" * 5000), "line that is not JSON"),
    "a list for a row": (_row("[1, 2, 3]"), "row that is no table"),
    "a number for a row": (_row("17"), "row that is no table"),
    "NaN for seconds": (_set(3, "timing_s/step", "NaN"), "value that is not finite"),
    "infinite rate": (_set(3, "perf/throughput", "Infinity"), "value that is not finite"),
    "minus infinity": (_set(3, "actor/entropy", "-Infinity"), "value that is not finite"),
    "a number too large": (_set(3, "actor/entropy", "1" + "0" * 400), "value that is not finite"),
    "null": (_set(3, "actor/entropy", "null"), ""),
    "text for a number": (_set(3, "actor/entropy", '"high"'), ""),
    "zero seconds": (_set(3, "timing_s/step", "0"), "step seconds of zero, below it or above a million"),
    "negative seconds": (_set(3, "timing_s/step", "-4.0"), "step seconds of zero, below it or above a million"),
    "seconds of weeks": (_set(3, "timing_s/step", "9e8"), "step seconds of zero, below it or above a million"),
    "negative phase": (_set(3, "timing_s/gen", "-1.0"), "phase seconds below zero"),
    "phases above it": (_set(3, "timing_s/gen", "500.0"), "phases longer than their step"),
    "length of zero": (_set(3, "response_length/mean", "0"), "mean_tokens of zero or below"),
    "a step of text": (_row('{"step": "three", "data": {"timing_s/step": 1}}'), "row with a step that is no number"),
    "a negative step": (_row('{"step": -2, "data": {"timing_s/step": 1.0}}'), "row with a step that is no number"),
    "a step of NaN": (_row('{"step": NaN, "data": {"timing_s/step": 1.0}}'), "row with a step that is no number"),
    "a step logged twice": (
        lambda lines: [*lines[:3], _set(2, "timing_s/step", "70.5")(lines)[2], *lines[3:]],
        "step logged twice",
    ),
    "the same row twice": (lambda lines: [*lines[:3], lines[2], *lines[3:]], ""),
    "a restart from step 3": (lambda lines: [*lines[:6], *lines[3:]], "step logged again after a restart"),
    "a restart from the start": (lambda lines: [*lines, *lines], "step logged again after a restart"),
    "halves exchanged": (lambda lines: [*lines[5:], *lines[:5]], "step logged again after a restart"),
    "rows of another engine": (_row(OTHER), "row of another engine (trl)"),
    "rows of no engine": (_row('{"step": 3, "data": {"mine": 1.0}}'), "row without a known key"),
    "no seconds": (_row('{"step": 99, "data": {"critic/score/mean": 0.5}}', at=9), "row without step seconds"),
    "empty lines": (lambda lines: [line for each in lines for line in (each, "", "   ")], ""),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_log_is_read_and_what_was_dropped_is_counted(tmp_path: Path, name: str) -> None:
    damage, reason = DAMAGED[name]
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(damage((LOGS / VERL).read_text().splitlines())))
    steps = found(path)
    assert set(steps.dropped) == ({reason} if reason else set())
    assert steps.median("step_s") == pytest.approx(63.5, rel=0.05)


def test_thirty_kinds_of_damage_are_tried() -> None:
    assert len(DAMAGED) >= 30


def test_damaged_event_files(tmp_path: Path) -> None:
    (source,) = (LOGS / "verl_tensorboard").iterdir()
    raw, rng = source.read_bytes(), random.Random(0)
    counted = 0
    for trial in range(40):
        kind = trial % 4
        place = rng.randrange(100, len(raw) - 200)
        cut = {
            0: raw[:place],
            1: raw[:place] + bytes([raw[place] ^ 0x10]) + raw[place + 1 :],
            2: raw[:place] + raw[place + 3 :],
            3: raw + raw[:place],
        }[kind]
        folder = tmp_path / str(trial)
        folder.mkdir()
        (folder / source.name).write_bytes(cut)
        try:
            counted += bool(found(folder).dropped)
        except UsageError as error:
            assert "\n" not in str(error)
    assert counted >= 20


def test_damaged_consoles(tmp_path: Path) -> None:
    for name in ("verl_console.log", "nemo_rl_console.log", "trl_console.log"):
        text, rng = (LOGS / name).read_text(), random.Random(1)
        for trial in range(20):
            place = rng.randrange(len(text) // 2, len(text))
            path = tmp_path / f"{trial}.log"
            path.write_text(
                text[:place] if trial % 2 else text[:place] + rng.choice("\x1b()'{:= ") * 3 + text[place:]
            )
            try:
                assert found(path).steps
            except UsageError as error:
                assert "\n" not in str(error)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["a.jsonl", "a.log", "trainer_state.json", "events.out.tfevents.1.a"]),
    data=st.one_of(st.binary(max_size=300), st.text(max_size=300).map(str.encode), st.sampled_from(SEEDS)),
    cut=st.integers(0, 400),
)
def test_any_bytes_are_read_or_refused_in_one_sentence(
    tmp_path: Path, name: str, data: bytes, cut: int
) -> None:
    path = tmp_path / name
    path.write_bytes(data[cut // 3 :] if cut % 3 else data + data[:cut])
    try:
        assert found(path).steps
    except MopdError as error:
        assert str(error) and "\n" not in str(error)


BROKEN = {
    "trainer_state.json": ('{"log_history": [{"loss": 1.0, "ste', "not valid JSON"),
    "other.json": ('{"a": 1}', "has no log_history"),
    "no_seconds.jsonl": (
        '{"step": 1, "data": {"critic/score/mean": 0.5}}',
        "no row has the seconds of a step",
    ),
    "foreign.jsonl": ('{"step": 1, "loss": 0.5}', "of none of verl, nemo-rl, trl, tinker, prime-rl"),
    "empty.jsonl": ("", "of none of verl"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_log_that_says_nothing_is_one_sentence(tmp_path: Path, name: str) -> None:
    text, sentence = BROKEN[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=sentence) as caught:
        found(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_paths_that_hold_no_log(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.jsonl"):
        with pytest.raises(NotFoundError):
            found(path)


QWEN = """
model = "Qwen3-8B"
gpu = "H100"
gpus = 16
[recipe]
name = "one"
domains = ["math"]
amounts = "small"
stages = [{ kind = "rl", name = "teacher", domains = { math = 1.0 } }]
[recipe.amounts_of.teacher]
steps = 8
prompts_per_step = 64
rollouts_per_prompt = 8
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "scenario.toml"
    path.write_text(QWEN)
    return path


def test_an_import_becomes_rows_that_calibrate_cost_reads(tmp_path: Path, scenario: Path) -> None:
    context = context_of(LOGS / VERL, None, scenario)
    (run,) = imported(LOGS / VERL, context)
    importing.write(tmp_path / "observations.csv", [run], context)
    table = rl_rows.load(tmp_path / "observations.csv")
    assert not table.refused and not table.unknown and len(table.rows) == 1
    row = table.rows[0].payload
    assert (row.generation_gpus, row.samples) == (GPUS, SAMPLES)
    assert table.rows[0].measured == run.found.median("step_s")
    steps = list(csv.DictReader((tmp_path / "observations.steps.csv").read_text().splitlines()))
    assert [one["kind"] for one in steps].count("evaluation") == 2 and len(steps) == STEPS


def test_learning_curves_become_observations_of_quality(tmp_path: Path, scenario: Path) -> None:
    context = context_of(LOGS / VERL, None, scenario)
    runs = imported(LOGS / VERL, context)
    importing.write(tmp_path / "observations.csv", runs, context)
    (tree,), _ = load_forest([tmp_path / "observations.scores" / "observations.csv"])
    scores = [(point.effort is None, point.scores[0].passed / point.scores[0].n) for point in tree.points]
    assert scores == [
        (False, pytest.approx(measured(4)["score"] - 0.02)),
        (True, pytest.approx(measured(8)["score"] - 0.02)),
    ]


def test_step_and_phases_have_a_place_in_the_forecast(scenario: Path) -> None:
    (run,) = imported(LOGS / VERL, context_of(LOGS / VERL, None, scenario))
    rows = run.forecast["rows"]
    assert {"step", "generation", "training"} <= {name for name, row in rows.items() if row["measured"]}
    for row in rows.values():
        if row["measured"] and row["p50"]:
            assert row["p10"] < row["p50"] < row["p90"] and 0 <= row["place"] <= 1
            assert (row["place"] > 0.9) == (row["measured"] > row["p90"] * (1 - 1e-9))
    assert rows["step"]["measured"] == run.found.median("step_s")
    assert math.isclose(run.forecast["mean_tokens"], run.found.median("mean_tokens") or 0)


def mopd(*arguments: object) -> dict[str, Any]:
    """The document of `mopd ARGUMENTS --json`, in this process."""
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


def test_one_import_is_checked_and_narrows_the_next_forecast(tmp_path: Path, scenario: Path) -> None:
    out, stack = tmp_path / "observations.csv", tmp_path / "my_stack.json"
    imported_here = mopd("import", LOGS / VERL, "--scenario", scenario, "--out", out)
    assert imported_here["runs"][0]["forecast"]["stack"] == "verl"
    (checked,) = mopd("check-step", "--data", out)["rows"]
    assert checked["measured_s"] == pytest.approx(imported_here["runs"][0]["median"]["step_s"])
    mopd("calibrate", "cost", "--data", out, "--out", stack)
    without, with_it = mopd("forecast", scenario), mopd("forecast", scenario, "--measured", stack)
    wide, narrow = (one["gpu_hours"]["p90"] / one["gpu_hours"]["p10"] for one in (without, with_it))
    assert narrow < wide


def test_milliseconds_are_noticed(tmp_path: Path, scenario: Path) -> None:
    rows = [json.loads(line) for line in (LOGS / VERL).read_text().splitlines()]
    for row in rows:
        row["data"] = {
            key: 1000 * value if key.startswith("timing_s") else value for key, value in row["data"].items()
        }
    (tmp_path / "ms.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UsageError, match="a unit is wrong"):
        imported(tmp_path / "ms.jsonl", context_of(tmp_path / "ms.jsonl", None, scenario))


def test_another_recipes_manifest_is_refused(tmp_path: Path) -> None:
    out = exported(tmp_path)
    with pytest.raises(
        UsageError, match="but the manifest says that stage 'mixed' of 'mixed_rl' ran with trl"
    ):
        imported(LOGS / VERL, context_of(LOGS / VERL, out / "manifest.json", None))
    longer = json.loads((LOGS / "trl" / "trainer_state.json").read_text())
    for row in longer["log_history"]:
        row["completions/mean_length"] = 900.0
    (tmp_path / "trainer_state.json").write_text(json.dumps(longer))
    with pytest.raises(UsageError, match="of another recipe"):
        imported(tmp_path / "trainer_state.json", context_of(tmp_path, out / "manifest.json", None))
    (tmp_path / "manifest.json").write_text('{"stages": 3}')
    with pytest.raises(UsageError, match="not a manifest of `mopd export`"):
        context_of(tmp_path, tmp_path / "manifest.json", None)


def exported(tmp_path: Path) -> Path:
    from mopdsim.cli.exchange_command import request_of
    from mopdsim.exchange import export
    from mopdsim.forecast.scenario import of_recipe

    made = request_of(of_recipe("mixed_rl", domains=["sort"]), "/models/base", None, None)
    export.write(tmp_path / "out", made, export.jobs_of(made, ["trl"]))
    return tmp_path / "out"


def test_a_run_export_is_read_without_naming_anything(tmp_path: Path) -> None:
    out = exported(tmp_path)
    (out / "mixed" / "checkpoints").mkdir()
    text = (LOGS / "trl" / "trainer_state.json").read_text()
    (out / "mixed" / "checkpoints" / "trainer_state.json").write_text(text)
    context = context_of(out, None, None)
    (run,) = imported(out, context)
    row: dict[str, Any] = run.row() or {}
    assert (run.stage, row["framework"], row["samples_per_step"]) == ("mixed", "trl 1.16.0", 256)
    with pytest.raises(MopdError, match="no stage of 'mixed_rl'"):
        imported(out, context, stage="mixedd")


def test_the_command(tmp_path: Path, scenario: Path) -> None:
    (run,) = mopd("import", LOGS / VERL, "--scenario", scenario)["runs"]
    assert run["steps"] == {"work": 5, "warm-up": 1, "evaluation": 2}
    with pytest.raises(MopdError) as caught:
        mopd("import", tmp_path)
    assert caught.value.exit_code == 3 and "\n" not in str(caught.value)
