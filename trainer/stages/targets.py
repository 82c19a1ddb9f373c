"""Who scores which rows in a distillation step, and what it minimises: each row's divergences from its teachers.

Each domain's prompts go to its own teachers, a misrouted share to another domain's; a domain without a teacher is an
error of the recipe, never a fallback. The routing, a stage's choice of loss and the teachers' cached hidden states
become one function of the student's logits at some positions (`trainer.batch.update.LossOf`). Leaves out: the
divergences (`trainer.losses.losses`), scoring, sampling.

Axes: B rows, T response tokens, N positions (flat index b * T + t), M positions of a teacher's own rows, V vocabulary.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mopdsim.recipes.stage import Distill
from trainer.batch.objective import likelihood, surrogate
from trainer.batch.rollout import Rollouts
from trainer.batch.score import Scored, logprobs
from trainer.batch.update import LossOf, Named, Sums
from trainer.losses import losses
from trainer.losses.losses import Loss
from trainer.stages.preflight import TeacherLoss


@dataclass(frozen=True, kw_only=True)
class Route:
    """Consecutive prompts of one domain with the teachers (stage name -> weight) that score them."""

    domain: str
    prompts: slice
    teachers: Mapping[str, float]

    def rows(self, group: int) -> slice:
        return slice(self.prompts.start * group, self.prompts.stop * group)


def routes(stage: Distill, counts: Mapping[str, int], *, seed: int) -> list[Route]:
    """The routes of `counts` prompts a domain, in the order of the domains; misrouted prompts come last in each."""
    rng = random.Random(seed)
    found: list[Route] = []
    first = 0
    for domain, count in counts.items():
        own = stage.teachers_of(domain)
        others = [t.stage for t in stage.teachers if t.stage not in own]
        astray = sorted(
            rng.choice(others) for _ in range(count) if others and rng.random() < stage.misrouting
        )
        sent: list[tuple[int, Mapping[str, float]]] = [(count - len(astray), own)]
        sent += [(astray.count(name), {name: 1.0}) for name in dict.fromkeys(astray)]
        for size, teachers in sent:
            if size:
                found.append(Route(domain=domain, prompts=slice(first, first + size), teachers=teachers))
                first += size
    return found


def sampling_routes(stage: Distill, counts: Mapping[str, int], *, seed: int) -> list[Route]:
    """As `routes`, each with a single teacher: a domain's prompts are divided among its teachers by weight.

    Whole numbers are rounded at random (systematic sampling), so that each teacher's share is right on average.
    """
    rng = random.Random(f"{seed}/sampling")
    found: list[Route] = []
    for route in routes(stage, counts, seed=seed):
        first, size = route.prompts.start, route.prompts.stop - route.prompts.start
        edge, taken, offset = first, 0.0, rng.random()
        for name, weight in route.teachers.items():
            taken += weight
            stop = first + min(size, math.floor(size * taken + offset + 1e-9))
            if stop > edge:
                found.append(Route(domain=route.domain, prompts=slice(edge, stop), teachers={name: 1.0}))
            edge = stop
    return found


def rows_by_teacher(found: Sequence[Route], group: int) -> dict[str, Tensor]:
    """row_M, ascending: the rows that each teacher scores."""
    rows: dict[str, list[int]] = {}
    for route in found:
        for name in route.teachers:
            own = route.rows(group)
            rows.setdefault(name, []).extend(range(own.start, own.stop))
    return {name: torch.tensor(own) for name, own in rows.items()}


@dataclass(frozen=True, kw_only=True)
class Scores:
    """One model's scores of some rows of a batch. place_B: where each of these stands in `scored`, scores of `read`,
    which is those rows as the model reads them."""

    place_B: Tensor
    read: Rollouts
    scored: Scored
    valid_V: Tensor | None  # ids that student and teacher share; None: all

    def logits(self, at_N: Tensor, width: int, temperature: float) -> Tensor:
        """The model's logits at positions of the batch, whose responses are so wide, without gradient."""
        return self.scored.at(self.place_B[at_N // width] * width + at_N % width, temperature)

    def logprobs(self, row_M: Tensor, temperature: float) -> Tensor:
        """logprob_MT of rows of the batch that the model scored, over the ids that it shares with the student."""
        logprob_BT = logprobs(self.scored, self.read, temperature=temperature, valid_V=self.valid_V)
        return logprob_BT[self.place_B[row_M]]


@dataclass(frozen=True, kw_only=True)
class Target:
    """All that a step's loss is made of. scores: by teacher. reference: what the teachers are extrapolated from."""

    stage: Distill
    rollouts: Rollouts
    weight_BT: Tensor
    advantage_B: Tensor | None
    temperature: float
    routes: Sequence[Route]
    scores: Mapping[str, Scores]
    reference: Scores | None


def loss_function(target: Target) -> LossOf:
    """The loss of the student's logits, and what it measures by domain and by teacher."""
    stage, rollouts = target.stage, target.rollouts
    if stage.loss == "sample_nll":
        return likelihood(rollouts, target.weight_BT)
    group, width = rollouts.group, rollouts.response_BT.shape[1]
    token_M, weight_M, behaviour_M = (
        x.flatten() for x in (rollouts.response_BT, target.weight_BT, rollouts.logprob_BT)
    )
    pairs = [(name, route) for name in target.scores for route in target.routes if name in route.teachers]
    beside = target.advantage_B is not None and stage.loss != "sampled_token"
    paid = reward_function(target) if beside else None

    def loss_of(logits_NV: Tensor, index_N: Tensor) -> tuple[Tensor, Sums]:
        total = logits_NV.sum() * 0
        sums = Sums()
        for name, route in pairs:
            part = _within(route.rows(group), width, index_N)
            if part.start == part.stop:
                continue
            at_N, scores, share = index_N[part], target.scores[name], route.teachers[name]
            teacher_NV = scores.logits(at_N, width, target.temperature)
            if target.reference is not None:
                reference_NV = target.reference.logits(at_N, width, target.temperature)
                teacher_NV = losses.extrapolate(teacher_NV, reference_NV, stage.extrapolation)
            advantage_N = None if target.advantage_B is None else target.advantage_B[at_N // width]
            loss, metrics = divergence(
                stage,
                logits_NV[part],
                teacher_NV,
                weight_M[at_N] * share,
                token_N=token_M[at_N],
                behaviour_N=behaviour_M[at_N],
                advantage_N=advantage_N,
                valid_V=scores.valid_V,
            )
            total = total + loss
            of_domain: Named = {quantity: value * share for quantity, value in metrics.items()}
            of_teacher: Named = {"kl_sum": metrics["kl_sum"], "tokens": float(len(at_N))}
            sums.add(Sums(domains={route.domain: of_domain}, teachers={name: of_teacher}))
        if paid is not None:
            total = total + paid(logits_NV, index_N)[0]
        return total, sums

    return loss_of


def reward_function(target: Target) -> LossOf:
    """The policy gradient of the verifiable reward, beside a full-vocabulary divergence."""
    assert target.advantage_B is not None
    advantage_BT = target.advantage_B[:, None].expand(target.rollouts.response_BT.shape)
    paid = surrogate(target.rollouts, advantage_BT, target.weight_BT)

    def loss_of(logits_NV: Tensor, index_N: Tensor) -> tuple[Tensor, Sums]:
        return target.stage.reward_mix * paid(logits_NV, index_N)[0], Sums()

    return loss_of


def divergence(
    stage: Distill,
    logits_NV: Tensor,
    teacher_NV: Tensor,
    weight_N: Tensor,
    *,
    token_N: Tensor,
    behaviour_N: Tensor,
    advantage_N: Tensor | None,
    valid_V: Tensor | None,
) -> Loss:
    """The stage's loss against one teacher's logits. `advantage_N` is the reward's, for the sampled-token form."""
    match stage.loss:
        case "reverse_kl":
            return losses.reverse_kl(logits_NV, teacher_NV, weight_N, valid_V=valid_V)
        case "forward_kl":
            return losses.forward_kl(logits_NV, teacher_NV, weight_N, valid_V=valid_V)
        case "jensen_shannon":
            return losses.jensen_shannon(
                logits_NV, teacher_NV, weight_N, beta=stage.jensen_shannon_beta, valid_V=valid_V
            )
        case "top_k_reverse_kl":
            return losses.top_k_reverse_kl(logits_NV, teacher_NV, weight_N, k=stage.top_k, valid_V=valid_V)
        case "sampled_token":
            if valid_V is not None:
                ids, place_V = valid_V.nonzero().squeeze(1), valid_V.cumsum(0) - 1
                logits_NV, teacher_NV, token_N = logits_NV[:, ids], teacher_NV[:, ids], place_V[token_N]
            student_N, _ = losses.token_logprob(logits_NV, token_N)
            teacher_N, _ = losses.token_logprob(teacher_NV, token_N)
            return losses.sampled_token(
                student_N,
                teacher_N,
                behaviour_N,
                weight_N,
                max_ratio=stage.max_importance_ratio,
                paid_N=None if advantage_N is None else stage.reward_mix * advantage_N,
            )
        case "sample_nll":
            raise AssertionError("the likelihood of samples needs no teacher scores")


def teacher_loss(stage: Distill) -> TeacherLoss:
    """The stage's loss against one teacher, for preflight. The likelihood of samples needs no teacher scores,
    so reverse KL stands in for it."""
    if stage.loss == "sample_nll":
        stage = stage.model_copy(update={"loss": "reverse_kl"})

    def loss(
        logits_NV: Tensor, teacher_NV: Tensor, token_N: Tensor, weight_N: Tensor, valid_V: Tensor | None
    ) -> Loss:
        return divergence(
            stage,
            logits_NV,
            teacher_NV,
            weight_N,
            token_N=token_N,
            behaviour_N=losses.token_logprob(logits_NV, token_N)[0].detach(),
            advantage_N=None,
            valid_V=valid_V,
        )

    return loss


def _within(rows: slice, width: int, index_N: Tensor) -> slice:
    """Where the positions of these rows lie in the ascending index_N."""
    edges = torch.tensor([rows.start * width, rows.stop * width], device=index_N.device)
    return slice(*torch.searchsorted(index_N, edges).tolist())
