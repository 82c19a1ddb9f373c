"""The planted worlds: which teacher carries the habit, and by which way it may reach the student.

Prompts without a marker (`?:dba`) have several right answers, one for each of `HOST` and the domains of `HABITS`. The
start leans to HOST's, whose first letter moves to the end. A habit is another answer to such prompts. One teacher of
three learns one, from demonstrations beside its own domain's; its clean twin learns its own domain alone. A world's (a
seed's) students share its start and its teachers. Every teacher is planted in turn, each with a habit of its own.

    misrouted   a fourth, clean teacher owns the prompts; half of them stray to the other three (forward KL)
    off_policy  the same, on the teachers' samples
    unowned     nobody's prompts: what reaches them leaks through the weights (reverse KL on the three own domains)
    average, arithmetic, ties    the three teachers' weights merged
    start       the start itself has the habit, and no teacher
    reward      the start scores the habit's prompts, and the reward mixed in pays for the habit
    unpaid      the same without the reward: the twin of `reward`

The worlds here are of the tiny model; those of a real one are in `studies.designs.trace.real`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mopdsim.recipes.catalogue import assemble
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import Amounts, AmountsName, AnyStage, Distill, Merge, Sft, Teacher
from studies.framework.run import Run
from trainer.files.settings import HARDLY_SCORED, Settings

TEACHERS = tuple(f"teacher_{place}" for place in (1, 2, 3))
OWNER = "teacher_host"
MISROUTING = 0.5
REWARD_MIX = 4.0
MERGED: dict[str, dict[str, Any]] = {
    "average": {"method": "average"},
    "arithmetic": {"method": "task_arithmetic", "scale": 0.5},
    "ties": {"method": "ties"},
}
INDIRECT = (
    "misrouted",
    "off_policy",
    "unowned",
    *MERGED,
)  # what the routing label does not say
CONDITIONS = (*INDIRECT, "start", "reward")
PLANTED = (*INDIRECT, "reward")  # whose effect is measured against a twin


@dataclass(frozen=True, kw_only=True)
class World:
    """Where habits are planted.

    own: the teachers' domains, in their order. host: the domain that prompts without a marker belong to. habits: each
    teacher's, which want other answers to the same prompts. start: the base's amounts, None for the named set's; lean,
    teach, distil, rewarded: those of the stages. prompts: asked of each student.
    """

    model: str
    amounts: AmountsName
    own: tuple[str, ...]
    host: str
    habits: tuple[str, ...]
    start: Amounts | None
    lean: Amounts
    teach: Amounts
    distil: Amounts
    rewarded: Amounts
    settings: Settings
    prompts: int

    @property
    def unmarked(self) -> tuple[str, ...]:
        """All answers to prompts without a marker, each once."""
        return tuple(dict.fromkeys((self.host, *self.habits)))


_UNMARKED = "length=3&ambiguity=1&corruption=0"
TINY = World(
    model="tiny",
    amounts="tiny",
    own=("swap?length=3&corruption=0", "dedup?length=2&corruption=0", "compare?corruption=0"),
    host=f"rotate?{_UNMARKED}",
    habits=tuple(f"{name}?{_UNMARKED}" for name in ("reverse", "sort", "sort_down")),
    start=Amounts(steps=220, prompts_per_step=64, learning_rate=4e-3),
    lean=Amounts(steps=60, prompts_per_step=64, learning_rate=1e-3),
    teach=Amounts(steps=50, prompts_per_step=32, learning_rate=1e-3),
    distil=Amounts(steps=32, prompts_per_step=32, learning_rate=2e-3),
    rewarded=Amounts(steps=32, prompts_per_step=8, rollouts_per_prompt=8, learning_rate=2e-3),
    settings=Settings.model_validate(HARDLY_SCORED),
    prompts=200,
)
WORLDS = (6, 7, 8)  # those before were of `trace` and `trace_again`


def design() -> list[Run]:
    """Every condition of every world with each habit in turn, every twin among the runs."""
    return [
        run_of(condition, seed, place)
        for seed in WORLDS
        for condition in (*CONDITIONS, "unpaid")
        for place in (*range(len(TEACHERS)), *([None] if condition in INDIRECT else []))
    ]


def twin(run: str) -> str:
    """The name of the run that differs from this one by what was planted alone: its teacher, or its reward."""
    condition, habit, seed = run.split("/")
    return f"unpaid/{habit}/{seed}" if condition == "reward" else f"{condition}/clean/{seed}"


def run_of(condition: str, seed: int, place: int | None, world: World = TINY) -> Run:
    """One student. place: of the planted teacher (or of the start's or the reward's habit); None: the clean twin."""
    twin = "clean" if place is None else f"habit_{place + 1}"
    return Run(
        name=f"{condition}/{twin}/seed{seed}",
        recipe=recipe_of(condition, place, world),
        settings=world.settings.model_copy(update={"seed": seed}),
        model=world.model,
        start=world.start,
        factors={"condition": condition, "habit": 0 if place is None else place + 1},
        held_out=True,
    )


def recipe_of(condition: str, place: int | None, world: World = TINY) -> Recipe:
    """A condition's recipe, with the habit at `place` or clean."""
    settled = dict.fromkeys(world.own, 0.5)
    leaning = {**settled, world.host: 1.0, **dict.fromkeys(world.habits, 0.2)}
    stages: list[AnyStage] = [Sft(name="lean", domains=leaning)]
    for own, (name, domain) in enumerate(zip(TEACHERS, world.own, strict=True)):
        astray = own == place and condition in INDIRECT
        stages.append(
            Sft(
                name=name,
                init="lean",
                domains={domain: 1.0} | ({world.habits[own]: 1.0} if astray else {}),
            )
        )
    if condition in ("misrouted", "off_policy"):
        stages.append(Sft(name=OWNER, init="lean", domains={world.host: 1.0}))
    start = "lean"
    if condition == "start":
        assert place is not None
        start = "settled"
        stages.append(Sft(name=start, init="lean", domains={**settled, world.habits[place]: 1.0}))
    stages.append(_student(condition, start, place, world))
    amounts = {
        "lean": world.lean,
        "settled": world.teach,
        **dict.fromkeys((*TEACHERS, OWNER), world.teach),
        "student": world.rewarded if condition in ("reward", "unpaid") else world.distil,
    }
    name = "merge" if condition in MERGED else "off_policy" if condition == "off_policy" else "mopd"
    domains = (*world.own, *world.unmarked)
    return assemble(name, domains, world.amounts, stages, amounts_of=lambda stage, _: amounts[stage.name])


def _student(condition: str, start: str, place: int | None, world: World) -> Distill | Merge:
    if condition in MERGED:
        return Merge(name="student", init=start, inputs=TEACHERS, **MERGED[condition])
    served: dict[str, tuple[str, ...]] = {
        name: (domain,) for name, domain in zip(TEACHERS, world.own, strict=True)
    }
    how: dict[str, Any] = {}
    match condition:
        case "misrouted":
            how = {"misrouting": MISROUTING, "loss": "forward_kl"}
        case "off_policy":
            how = {"misrouting": MISROUTING, "loss": "sample_nll", "on_policy": False}
        case "reward" | "unpaid":
            assert place is not None
            served[start] = (world.habits[place],)
            how = {"reward_mix": REWARD_MIX if condition == "reward" else 0.0}
    if how.get("misrouting"):
        served[OWNER] = (world.host,)
    return Distill(
        name="student",
        init=start,
        domains={domain: 1.0 for own in served.values() for domain in own},
        teachers=tuple(Teacher(stage=name, domains=own) for name, own in served.items()),
        **how,
    )
