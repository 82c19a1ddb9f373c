"""Teachers of a distillation step against hand-computed seconds, bytes and FLOPs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mopdsim.base.errors import UsageError
from mopdsim.cost.constants import TrainConstants
from mopdsim.cost.rlstep import scoring_s
from mopdsim.cost.teachers import TeacherCost, Teachers, teacher_cost
from mopdsim.cost.training import TrainLayout
from mopdsim.facts.hardware import gpu
from mopdsim.facts.model import model

TEACHER = model("Qwen/Qwen3-8B")
H100 = gpu("H100")
TRAIN = TrainConstants.shipped()
LAYOUT = TrainLayout(gpus=8, tensor=2)
FOUR = Teachers(models=[TEACHER] * 4, layout=LAYOUT)
WEIGHTS = 2.0 * TEACHER.total_parameters
TOKENS = 64 * 2000


def cost(teachers: Teachers) -> TeacherCost:
    return teacher_cost(teachers, H100, TRAIN, sequences=64, mean_length=2000, student_gpus=8)


def one_pass() -> float:
    return float(scoring_s(TEACHER, H100, LAYOUT, TRAIN, sequences=16, mean_length=2000))


def test_serial_teachers_add_up_and_are_each_loaded() -> None:
    found = cost(FOUR)
    load = WEIGHTS / (8 * H100.scale_out_bytes_per_s)
    assert float(found.seconds) == pytest.approx(4 * (one_pass() + load))
    assert found.loaded_bytes == 4 * WEIGHTS
    assert found.network_bytes == 0
    assert found.memory_bytes == pytest.approx(WEIGHTS / 8 + 4 * TOKENS / 8)


def test_a_single_teacher_stays_loaded() -> None:
    found = cost(replace(FOUR, models=[TEACHER]))
    assert found.loaded_bytes == 0
    alone = scoring_s(TEACHER, H100, LAYOUT, TRAIN, sequences=64, mean_length=2000)
    assert float(found.seconds) == pytest.approx(float(alone))


def test_dedicated_teachers_work_side_by_side_and_send_what_they_computed() -> None:
    found = cost(replace(FOUR, serving="dedicated", output="vocabulary"))
    sent = 2.0 * TEACHER.vocab * TOKENS
    assert found.network_bytes == sent
    assert float(found.seconds) == pytest.approx(one_pass() + sent / 8 / H100.scale_out_bytes_per_s)
    assert found.teacher_memory_bytes == WEIGHTS / 8
    assert found.memory_bytes == sent / 8
    assert found.loaded_bytes == 0


def test_outputs_differ_in_bytes_and_never_in_flops() -> None:
    sampled, top, whole = (cost(replace(FOUR, output=name)) for name in ("sampled", "top_k", "vocabulary"))
    products = 2.0 * TEACHER.matmul_parameters * TOKENS + 64 * TEACHER.attention_flops(2000)
    assert sampled.flops == top.flops == whole.flops == pytest.approx(products)
    stored = [found.memory_bytes - WEIGHTS / 8 for found in (sampled, top, whole)]
    assert stored == pytest.approx([TOKENS * width / 8 for width in (4, 6 * 64, 2 * TEACHER.vocab)])
    wider = cost(replace(FOUR, output="top_k", top_k=128))
    assert wider.memory_bytes - top.memory_bytes == pytest.approx(TOKENS * 6 * 64 / 8)


def test_cached_hidden_states_need_one_head_and_two_bytes_a_unit() -> None:
    cached = cost(replace(FOUR, serving="hidden_cache", output="vocabulary"))
    head = 2.0 * TEACHER.vocab * TEACHER.hidden / 2
    assert cached.memory_bytes == pytest.approx(max(WEIGHTS / 8, head) + 2 * TEACHER.hidden * TOKENS / 8)
    whole = cost(replace(FOUR, output="vocabulary"))
    assert cached.memory_bytes < whole.memory_bytes
    assert cached.flops == whole.flops and float(cached.seconds) == float(whole.seconds)


def test_fp8_teachers_are_half_as_large_and_faster() -> None:
    narrow = cost(replace(FOUR, layout=replace(LAYOUT, precision="fp8")))
    assert narrow.loaded_bytes == cost(FOUR).loaded_bytes / 2
    assert float(narrow.seconds) < float(cost(FOUR).seconds)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"serving": "hidden"}, "serving 'hidden'"),
        ({"output": "all"}, "output 'all'"),
        ({"models": []}, "0 models"),
        ({"top_k": 0}, "top_k = 0"),
    ],
)
def test_nonsense_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(FOUR, **changes)  # type: ignore[arg-type]
