"""One stage to run, as the loops see it. Leaves out: keys and directories (`trainer.runs.plan`)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopdsim.recipes.stage import BASE, Amounts, AnyStage
from trainer.files.settings import Settings
from trainer.tasks import Split, Task, task

if TYPE_CHECKING:
    from trainer.model.policy import Policy


@dataclass(frozen=True, kw_only=True)
class Note:
    """How far a stage is: the share of it that is done, and where it stands in words. ready: its weights are there, and
    all that is left is to score them."""

    done: float
    text: str
    ready: bool = False


Report = Callable[[Note], None]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One stage to run.

    weights: directories in Hugging Face layout by stage name, that of its root among them. data: directories of
    samples by stage name. root: the model that its weights grew from. drawn_as: the key of another stage, whose random
    numbers this one draws again.
    """

    key: str
    stage: AnyStage | None
    amounts: Amounts | None
    settings: Settings
    domains: tuple[str, ...]
    weights: Mapping[str, Path]
    directory: Path
    data: Mapping[str, Path] = field(default_factory=dict)
    root: str = BASE
    drawn_as: str | None = None

    @property
    def name(self) -> str:
        """The stage's name, for messages."""
        return BASE if self.stage is None else self.stage.name

    @property
    def init(self) -> str:
        """The stage whose weights this one starts from."""
        return BASE if self.stage is None else self.stage.init

    @property
    def judges(self) -> Mapping[str, str]:
        """The reward models that judge in the verifiers' place, by domain."""
        judges: Mapping[str, str] = getattr(self.stage, "reward_models", {})
        return judges

    def seed(self, *parts: object) -> int:
        """A seed that depends on the stage's key (or that of `drawn_as`) and `parts` alone."""
        text = "/".join(map(str, (self.drawn_as or self.key, *parts)))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")

    def tasks(self) -> dict[str, Task]:
        """The domains and probes by their specification, and what is trained on beside them."""
        trained = getattr(self.stage, "domains", ())
        return {spec: task(spec) for spec in dict.fromkeys((*self.domains, *self.settings.probes, *trained))}

    def scored(self, split: Split) -> tuple[str, ...]:
        """The domains and probes that a split's evaluation scores."""
        return scored_domains(self.stage, self.domains, self.settings, split)

    def load(self, name: str, *, merged: bool = False) -> Policy:
        """The model of a stage, or the base; one that judges with its head. merged: an adapter as whole weights."""
        from trainer.batch.heads import load_reward_model
        from trainer.model.loading import load_policy

        if name in self.judges.values():
            return load_reward_model(self.weights[name], **self.loading())
        return load_policy(self.weights[name], **self.loading(), merged=merged)

    def loading(self) -> dict[str, Any]:
        """The settings with which every model of the stage is loaded."""
        return {"device": self.settings.device, "dtype": self.settings.dtype, "chat": self.settings}


def scored_domains(
    stage: AnyStage | None, domains: Sequence[str], settings: Settings, split: Split
) -> tuple[str, ...]:
    """All domains and probes, or a stage's own where `Settings.score_others` leaves out what it does not train on."""
    whole = tuple(dict.fromkeys((*domains, *settings.probes)))
    own = tuple(getattr(stage, "domains", ()))
    without = settings.score_others == "never" or (settings.score_others == "at_end" and split != "test")
    return own if without and own and set(own) <= set(whole) else whole
