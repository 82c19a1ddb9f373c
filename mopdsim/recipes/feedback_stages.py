"""Stage kinds that turn judgements into models and data: reward model, rejection sampling, preference optimisation.

A domain is judged by its verifier, or by the reward model that `reward_models` names for it. Leaves out: training on
what was sampled (`mopdsim.recipes.stage.Sft`), reinforcement (`mopdsim.recipes.stage.Rl`).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mopdsim.recipes.amounts import Value
from mopdsim.recipes.stage_fields import BASE, AdapterRank, Flips, Name, NotNegative, Shares, Weight


class RewardModel(Value):
    """A scalar head on the model it starts from, trained on pairs of that model's samples (Bradley-Terry).

    Samples of one prompt are paired where the verifier's scores differ. noise: probability that a pair's label is
    reversed (the same pair is always reversed alike); InstructGPT's labellers agreed on 73% of pairs.
    """

    kind: Literal["reward_model"] = "reward_model"
    name: Name
    init: str = BASE
    domains: Shares
    noise: Flips = 0.0


class RejectionSampling(Value):
    """A dataset: the model it starts from answers every prompt several times, and a judge chooses.

    keep: the "best" answer of each prompt, or all that "passed" the verifier in full. reward_models: the judge by
    domain, the verifier where absent. It trains nothing, and only `sft` reads it.
    """

    kind: Literal["rejection_sampling"] = "rejection_sampling"
    name: Name
    init: str = BASE
    domains: Shares
    reward_models: dict[str, str] = Field(default_factory=dict)
    keep: Literal["best", "passed"] = "best"


class Preference(Value):
    """Direct preference optimisation (DPO, 2305.18290) on the best and the worst sample of each prompt.

    The reference, and where not `on_policy` the sampler, is the model the stage starts from. beta: of the implied KL.
    noise: probability that a pair is reversed. likelihood_weight: of the chosen sample's likelihood beside it
    (Llama 3: 0.2). reward_models: the judge by domain, the verifier where absent.
    """

    kind: Literal["preference"] = "preference"
    name: Name
    init: str = BASE
    domains: Shares
    adapter_rank: AdapterRank = None
    reward_models: dict[str, str] = Field(default_factory=dict)
    beta: Weight = 0.1
    noise: Flips = 0.0
    likelihood_weight: NotNegative = 0.0
    on_policy: bool = False
