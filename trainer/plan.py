"""From recipes and a model to the stages to run: keys, directories, who waits for whom.

Several recipes planned together share whatever has the same key. `tiny` is made on the spot: random weights, then a
start trained by SFT on the recipe's own domains. Leaves out: running (`trainer.execute`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mopdsim.amounts import Amounts, default_amounts
from mopdsim.errors import NotFoundError
from mopdsim.recipe import BASE, Recipe, Sft, parents
from trainer.atomic import atomic_directory, verified
from trainer.loop import Job
from trainer.models import fingerprint
from trainer.settings import Settings
from trainer.stages import ALGORITHM_VERSIONS
from trainer.store import Store, key_of, stage_keys
from trainer.tasks import PROBES, task
from trainer.tiny import init_tiny

TINY = "tiny"
START = "start"


@dataclass(frozen=True, kw_only=True)
class Node:
    """A stage to run once: its job, what its key is made from, and the keys it waits for."""

    job: Job
    made_from: Mapping[str, Any]
    needs: tuple[str, ...]
    label: str

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
    """Everything to run, parents first. keys: recipe name -> stage name ("base" too) -> key."""

    nodes: tuple[Node, ...]
    keys: Mapping[str, Mapping[str, str]]


def plan(
    recipes: Mapping[str, Recipe],
    *,
    model: str,
    settings: Settings,
    store: Store,
    start_amounts: Amounts | None = None,
) -> Plan:
    """The stages of all recipes, by recipe label. `start_amounts` replaces the default of `tiny`'s start."""
    nodes: dict[str, Node] = {}
    keys: dict[str, dict[str, str]] = {}
    for label, recipe in recipes.items():
        chosen = (
            settings
            if settings.probes or model != TINY
            else settings.model_copy(update={"probes": _probes(recipe)})
        )
        base = _base(recipe, model, chosen, store, start_amounts)
        nodes.setdefault(base.key, base)
        external = base.job.stage is None
        made_from = stage_keys(recipe, chosen, base.key, ALGORITHM_VERSIONS)
        own = {BASE: base.key, **{name: key_of(made) for name, made in made_from.items()}}
        base_weights = base.job.weights[BASE] if external else store.weights(base.key)
        for stage in recipe.stages:
            names = [BASE, *parents(stage)]
            key = own[stage.name]
            job = Job(
                key=key,
                stage=stage,
                amounts=recipe.amounts.get(stage.name),
                settings=chosen,
                domains=recipe.domains,
                weights={name: base_weights if name == BASE else store.weights(own[name]) for name in names},
                directory=store.directory(key),
            )
            needs = tuple(dict.fromkeys(own[name] for name in names))
            node = Node(job=job, made_from=made_from[stage.name], needs=needs, label=f"{label}/{stage.name}")
            nodes.setdefault(key, node)
        keys[label] = own
    return Plan(nodes=tuple(nodes.values()), keys=keys)


def _probes(recipe: Recipe) -> tuple[str, ...]:
    """The probes of `tiny` whose skills all are among the recipe's domains."""
    names = {domain.partition("?")[0] for domain in recipe.domains}
    return tuple(probe for probe, skills in PROBES.items() if set(skills) <= names)


def _base(
    recipe: Recipe, model: str, settings: Settings, store: Store, start_amounts: Amounts | None
) -> Node:
    """The model a recipe starts from: a scored directory, or `tiny` with its start."""
    if model != TINY:
        directory = model_directory(model)
        return _node(
            None, None, fingerprint(directory), directory, recipe.domains, settings, store, label="base"
        )
    seed = settings.seed
    directory = store.root / f"tiny-{seed}"
    if not verified(directory):
        with atomic_directory(directory) as partial:
            init_tiny(partial, seed=seed)
    start = Sft(name=START, domains=dict.fromkeys(recipe.domains, 1.0))
    amounts = start_amounts or default_start(len(recipe.domains))
    return _node(
        start, amounts, fingerprint(directory), directory, recipe.domains, settings, store, label=START
    )


def default_start(domains: int) -> Amounts:
    """The amounts of `tiny`'s start: the named set's steps for each domain, for three at least."""
    return default_amounts("tiny", "sft").scaled(max(3, domains))


def _node(
    stage: Sft | None,
    amounts: Amounts | None,
    model_key: str,
    directory: Path,
    domains: Sequence[str],
    settings: Settings,
    store: Store,
    *,
    label: str,
) -> Node:
    """A node that depends on a model directory alone."""
    if stage is not None and amounts is not None:
        alone = Recipe(
            name=START,
            domains=tuple(domains),
            amounts_name="tiny",
            stages=(stage,),
            amounts={START: amounts},
            output=START,
        )
        made_from = stage_keys(alone, settings, model_key, ALGORITHM_VERSIONS)[START]
    else:
        made_from = {
            "stage": None,
            "base": model_key,
            "domains": [task(spec).fingerprint for spec in (*domains, *settings.probes)],
            "settings": settings.model_dump(mode="json", exclude={"checkpoint_every"}),
        }
    key = key_of(made_from)
    job = Job(
        key=key,
        stage=stage,
        amounts=amounts,
        settings=settings,
        domains=tuple(domains),
        weights={BASE: directory},
        directory=store.directory(key),
    )
    return Node(job=job, made_from=made_from, needs=(), label=label)


def model_directory(model: str) -> Path:
    """A local directory as it is; a hub id's snapshot, downloaded where the hub can be reached."""
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise NotFoundError(
                f"model {model!r}: no model directory (config.json is missing); `mopd train init-model` makes one"
            )
        return path.resolve()
    if model.startswith((".", "/", "~")):
        raise NotFoundError(
            f"model {model!r}: no such directory; `mopd train init-model --out {model}` makes one"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        found = snapshot_download(
            model, allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
        )
    except (OSError, ValueError, HFValidationError) as error:
        reason = str(error).strip().split("\n")[0]
        raise NotFoundError(
            f"model {model!r}: no such directory, and the hub gave none ({type(error).__name__}: {reason}); "
            "give 'tiny', a directory in Hugging Face layout, or a hub id"
        ) from error
    return Path(found)
