"""From recipes and a model to the stages to run: keys, directories, who waits for whom.

Several recipes planned together share whatever has the same key. `tiny` is made on the spot: random weights, then a
start trained by SFT on the recipe's own domains; so is a smaller one for the students that a recipe wants smaller. With
the amounts `real` a given model has a start too: a few steps of SFT on the form of short answers
(`trainer.tasks.FORM`).
Leaves out: running (`trainer.runs.execute`), and what computes: planning alone does not load it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mopdsim.base.errors import UsageError
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import (
    BASE,
    NORMALISING_ANSWERS,
    SMALLER,
    Amounts,
    RejectionSampling,
    RewardModel,
    Sft,
    default_amounts,
    parents,
)
from trainer.files.atomic import atomic_directory, verified
from trainer.files.settings import Settings
from trainer.model.sources import model_directory
from trainer.model.tiny import init_model, tiny_tokenizer
from trainer.runs.store import Store, key_of, stage_keys
from trainer.stages.job import Job, scored_domains
from trainer.tasks import FORM, PROBES, SPLITS, task

TINY = "tiny"
START = "start"
START_RATE = 4e-3  # from random weights; what has learnt before is fine-tuned at the named set's
LEAST_START = 0.25
SMALL_TINY = "tiny-small"
BUILT_IN: Mapping[str, Mapping[str, Any]] = {  # models that the trainer makes itself: sizes for `init_model`
    TINY: {},
    SMALL_TINY: {"hidden": 32, "layers": 2},
    "tiny-large": {"hidden": 128},
    "tiny-1.5M": {"hidden": 192},
    "tiny-xlarge": {"hidden": 256},
    "tiny-10M": {"hidden": 512},
}


@dataclass(frozen=True, kw_only=True)
class Node:
    """A stage to run once: its job, what its key is made from, the keys it waits for, and the directory of the model
    that was given, whose shape all have."""

    job: Job
    made_from: Mapping[str, Any]
    needs: tuple[str, ...]
    label: str
    given: Path

    @property
    def key(self) -> str:
        return self.job.key

    @property
    def effort(self) -> float:
        """A rough size, to start long chains first."""
        amounts = self.job.amounts
        if amounts is None:
            return 1.0
        return (
            amounts.max_flops or 1e8 * amounts.steps * amounts.prompts_per_step * amounts.rollouts_per_prompt
        )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything to run, parents first. keys: recipe name -> stage name (and root) -> key."""

    nodes: tuple[Node, ...]
    keys: Mapping[str, Mapping[str, str]]

    @cached_property
    def node(self) -> dict[str, Node]:
        """By key."""
        return {node.key: node for node in self.nodes}

    def only(self, keys: Iterable[str]) -> Plan:
        """The same with these stages alone."""
        chosen = set(keys)
        return Plan(nodes=tuple(node for node in self.nodes if node.key in chosen), keys=self.keys)

    def needed(self, label: str) -> set[str]:
        """Keys of all stages of a recipe, or of a study's run."""
        return set(self.keys[label].values())


def plan(
    recipes: Mapping[str, Recipe],
    *,
    model: str,
    settings: Settings,
    store: Store,
    smaller: str | None = None,
    start_amounts: Amounts | None = None,
    start_scale: float = 1.0,
) -> Plan:
    """The stages of all recipes, by recipe label, on `model` and, where one starts from it, the `smaller` one.

    `start_amounts` replaces the default of the start; `start_scale` is of a built-in model's. UsageError where a
    smaller model is wanted and none given.
    """
    from trainer.runs.worker import ALGORITHM_VERSIONS

    nodes: dict[str, Node] = {}
    keys: dict[str, dict[str, str]] = {}
    for label, recipe in recipes.items():
        chosen = (
            settings
            if settings.probes or model not in BUILT_IN
            else settings.model_copy(update={"probes": _probes(recipe)})
        )
        given = models(recipe, model, smaller)
        roots = {
            name: _root(name, recipe, given[name], chosen, store, start_amounts, start_scale)
            for name in given
        }
        nodes |= {root.key: root for root in roots.values() if root.key not in nodes}
        root_keys = {name: root.key for name, root in roots.items()}
        made_from = stage_keys(recipe, chosen, root_keys, ALGORITHM_VERSIONS)
        own = root_keys | {name: key_of(made) for name, made in made_from.items()}
        # A ledger changes no student: the random numbers are those of the same stages without one.
        plain = recipe.with_amounts(
            {name: row.model_copy(update={"ledger": False}) for name, row in recipe.amounts.items()}
        )
        unkept = stage_keys(plain, chosen, root_keys, ALGORITHM_VERSIONS)
        drawn = {name: key_of(made) for name, made in unkept.items()}
        weights = {
            name: store.weights(root.key) if root.job.stage else root.job.weights[BASE]
            for name, root in roots.items()
        }
        for stage in recipe.stages:
            root = recipe.root_of(stage.name)
            names = dict.fromkeys([root, *parents(stage)])
            data = [name for name in names if isinstance(recipe.stage.get(name), RejectionSampling)]
            key = own[stage.name]
            weights[stage.name] = store.weights(key)
            job = Job(
                key=key,
                stage=stage,
                amounts=recipe.amounts.get(stage.name),
                settings=chosen,
                domains=recipe.domains,
                drawn_as=drawn[stage.name] if drawn[stage.name] != key else None,
                weights={name: weights[name] for name in names if name not in data},
                data={name: store.data(own[name]) for name in data},
                root=root,
                directory=store.directory(key),
            )
            needs = tuple(dict.fromkeys(own[name] for name in names))
            node = Node(
                job=job,
                made_from=made_from[stage.name],
                needs=needs,
                label=f"{label}/{stage.name}",
                given=roots[root].given,
            )
            nodes.setdefault(key, node)
        keys[label] = own
    return Plan(nodes=tuple(nodes.values()), keys=keys)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """How many answers a recipe samples or reads in training, at most, and how many in evaluation."""

    training: int
    evaluation: int

    def __str__(self) -> str:
        share = self.evaluation / max(self.training + self.evaluation, 1)
        return f"evaluation: {self.evaluation:,} answers beside {self.training:,} in training, {share:.0%} of all"


def answers(recipe: Recipe, settings: Settings) -> Answers:
    """What evaluation costs beside training, counted in answers; the start of a model is left out of both, its scores
    are not. A stage that FLOPs end may train on fewer."""
    each = settings.test_items * settings.samples_per_prompt + settings.greedy_items
    training, evaluation = 0, each * len(scored_domains(None, recipe.domains, settings, "test"))
    for stage in recipe.stages:
        validated, tested = (
            len(scored_domains(stage, recipe.domains, settings, split)) for split in SPLITS[1:]
        )
        evaluation += each * tested
        if amounts := recipe.amounts.get(stage.name):
            training += amounts.steps * amounts.prompts_per_step * amounts.rollouts_per_prompt
            evaluation += -(-amounts.steps // settings.evaluate_every) * settings.validation_items * validated
        if isinstance(stage, RewardModel):
            training += NORMALISING_ANSWERS
    return Answers(training=training, evaluation=evaluation)


def _probes(recipe: Recipe) -> tuple[str, ...]:
    """The probes of `tiny` whose skills all are among the recipe's domains."""
    names = {domain.partition("?")[0] for domain in recipe.domains}
    return tuple(probe for probe, skills in PROBES.items() if set(skills) <= names)


def models(recipe: Recipe, model: str, smaller: str | None) -> dict[str, str]:
    """The model of each of the recipe's roots. UsageError where a smaller one is wanted and none given."""
    if SMALLER not in recipe.roots:
        return {BASE: model}
    if smaller is None and model not in BUILT_IN.keys() - {SMALL_TINY}:
        needing = next(stage.name for stage in recipe.stages if SMALLER in parents(stage))
        raise UsageError(
            f"recipe {recipe.name!r}: stage {needing!r} starts from a smaller model than {model!r}, and none is given: "
            "add --smaller with a model of the same tokenizer"
        )
    return {BASE: model, SMALLER: smaller or SMALL_TINY}


def check_tokens(given: Mapping[str, str]) -> None:
    """UsageError where the models of a recipe's roots (by root) do not read the same tokens."""
    if len(set(given.values())) < 2:
        return
    base, smaller = (_vocabulary(given[root]) for root in (BASE, SMALLER))
    if differing := {token for token in {*base, *smaller} if base.get(token) != smaller.get(token)}:
        raise UsageError(
            f"smaller = {given[SMALLER]!r}: {len(differing)} tokens have other ids than in {given[BASE]!r}, whose "
            "answers it learns from: use models of one tokenizer"
        )


def _vocabulary(model: str) -> dict[str, int]:
    from transformers import AutoTokenizer

    if model in BUILT_IN:
        return tiny_tokenizer().get_vocab()
    found: dict[str, int] = AutoTokenizer.from_pretrained(
        model_directory(model), trust_remote_code=False
    ).get_vocab()
    return found


def _root(
    name: str,
    recipe: Recipe,
    model: str,
    settings: Settings,
    store: Store,
    start_amounts: Amounts | None,
    start_scale: float,
) -> Node:
    """A model that a recipe starts from: a scored directory, or one with a start, as built-in models have."""
    from trainer.model.loading import fingerprint
    from trainer.runs.worker import ALGORITHM_VERSIONS

    stage: Sft | None = None
    amounts: Amounts | None = None
    label = name
    if model in BUILT_IN:
        directory = store.root / f"{model}-{settings.seed}"
        if not verified(directory):
            with atomic_directory(directory) as partial:
                init_model(partial, seed=settings.seed, **BUILT_IN[model])
        stage = Sft(name=START, domains=dict.fromkeys(recipe.domains, 1.0))
        amounts = start_amounts or default_start(len(recipe.domains), scale=start_scale)
        label = START if name == BASE else f"{name} {START}"
    else:
        directory = model_directory(model)
        if recipe.amounts_name == "real":
            stage = Sft(name=START, domains=dict.fromkeys(FORM, 1.0))
            amounts = start_amounts or default_amounts("real", "sft")
            label = START if name == BASE else name
    if stage is not None and amounts is not None:
        alone = Recipe(
            name=START,
            domains=tuple(dict.fromkeys((*recipe.domains, *stage.domains))),
            amounts_name="tiny",
            stages=(stage,),
            amounts={START: amounts},
            output=START,
        )
        made_from = stage_keys(alone, settings, {BASE: fingerprint(directory)}, ALGORITHM_VERSIONS)[START]
    else:
        made_from = {
            "stage": None,
            "base": fingerprint(directory),
            "domains": [task(spec).fingerprint for spec in (*recipe.domains, *settings.probes)],
            "settings": settings.keyed(),
        }
    key = key_of(made_from)
    job = Job(
        key=key,
        stage=stage,
        amounts=amounts,
        settings=settings,
        domains=tuple(recipe.domains),
        weights={BASE: directory},
        directory=store.directory(key),
    )
    return Node(job=job, made_from=made_from, needs=(), label=label, given=directory)


def default_start(domains: int, *, scale: float = 1.0) -> Amounts:
    """The amounts of a built-in model's start: the named set's steps for each domain, for three at least.

    A run at a small scale shortens it too, but never below a quarter: a model that is right nowhere gives
    reinforcement, reward models and rejection sampling nothing to work on.
    """
    own = default_amounts("tiny", "sft").model_copy(update={"learning_rate": START_RATE})
    return own.scaled(max(3, domains) * min(1.0, max(scale, LEAST_START)))
