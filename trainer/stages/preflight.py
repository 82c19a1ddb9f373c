"""Checks before any distillation step: what would otherwise fail silently fails here, with a remedy.

Each check is a function that raises UsageError or returns what it measured; `preflight` runs them all. Prompts are
rendered by each model's own chat template, the student's completion ids are kept. Leaves out: quality of
teachers (`trainer.batch.evaluate`) and lengths during training (`trainer.stages.loop` watches truncation).

Axes: B rows, T response length, N trained positions, D hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from mopdsim.base.errors import UsageError
from trainer.batch.batch import with_prompts_of
from trainer.batch.rollout import Rollouts, generate
from trainer.batch.score import Opened, logprobs, score
from trainer.batch.update import hidden_states
from trainer.losses.losses import Loss, reverse_kl
from trainer.model.policy import Policy
from trainer.stages.job import Job
from trainer.tasks import Item

# Limit of a mean per token, by compute type. bfloat16's own noise is .0009 to .0013 on a real model of 135 M
# parameters; wrong padding or positions give tenths.
SELF_KL_NATS = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
SAME_GRADIENT = 1e-6  # relative distance at or below which two gradients count as one
GREEDY_FLOOR = -2.0  # nats a token: a probability of 0.14 for the teacher's own first choice
GREEDY_SLACK = 1.0  # nats a token
NEW_TOKENS = 32
PROMPTS = 4  # of all domains, and one of each at least
STUDENT = "the student itself"


# A stage's loss for one teacher: of the student's and the teacher's logits_NV, token_N, weights_N and valid_V.
TeacherLoss = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None], Loss]


def preflight(
    student: Policy,
    teachers: Mapping[str, Opened],
    prompts: Sequence[str],
    *,
    loss: TeacherLoss,
) -> dict[str, Any]:
    """What was measured, where nothing failed: self_kl and, by teacher, greedy_logprob, both in nats a token;
    gradient_distance, relative, by pair of teachers, the student among them.

    prompts: a few user texts of the stage's domains. Each teacher is opened once and let go before the next. Raises
    UsageError at the first check that fails.
    """
    items = [Item(domain="", prompt=prompt, answer="") for prompt in prompts]
    rollouts = _answers(student, prompts)
    hidden_BTD = hidden_states(student, rollouts)
    self_kl = self_distillation(student, rollouts, hidden_BTD)
    hidden_ND = hidden_BTD[rollouts.trained_BT]
    own_logprob, greedy = greedy_logprob(student, prompts), dict[str, float]()
    gradients = {STUDENT: teacher_gradient(student, hidden_ND, student, hidden_ND, rollouts, loss, None)}
    for name, opened in teachers.items():
        with opened() as teacher:
            valid_V = vocabulary(student, name, teacher, rollouts)
            end_of_sequence(student, name, teacher)
            read = with_prompts_of(rollouts, teacher, items)
            taught_ND = deterministic(name, teacher, read)[read.trained_BT]
            greedy[name] = own_greedy_output(name, greedy_logprob(teacher, prompts), own_logprob)
            gradients[name] = teacher_gradient(student, hidden_ND, teacher, taught_ND, read, loss, valid_V)
    return {
        "self_kl": self_kl,
        "greedy_logprob": greedy,
        "gradient_distance": different_gradients(gradients),
    }


def prompts_of(job: Job) -> list[str]:
    """A few training prompts of each of the stage's domains."""
    tasks = job.tasks()
    each = max(1, PROMPTS // len(tasks))
    return [
        item.prompt
        for task in tasks.values()
        for item in task.stream("train", 0, each, seed=job.settings.seed)
    ]


def alone(student: Policy, prompts: Sequence[str]) -> dict[str, float]:
    """What can be checked of a model before there is a teacher: that it agrees with itself."""
    rollouts = _answers(student, prompts)
    return {"self_kl": self_distillation(student, rollouts, hidden_states(student, rollouts))}


def _answers(policy: Policy, prompts: Sequence[str], *, greedy: bool = False) -> Rollouts:
    """The likeliest answer to each prompt, or two sampled ones."""
    return generate(
        policy,
        policy.chat.prompts(prompts),
        rollouts_per_prompt=1 if greedy else 2,
        max_new_tokens=NEW_TOKENS,
        temperature=0.0 if greedy else 1.0,
        seed=0,
    )


def shared_ids(student: Policy, name: str, teacher: Policy) -> Tensor | None:
    """valid_V for the losses: None where both heads are equally wide, else the ids the tokenizers share.

    UsageError where a token has another id in the teacher, or an id has no place in one of the heads.
    """
    own, other = student.tokenizer.get_vocab(), teacher.tokenizer.get_vocab()
    differing = sorted(token for token in {*own, *other} if own.get(token) != other.get(token))
    if differing:
        token = differing[0]
        raise UsageError(
            f"token {token!r} has id {own.get(token)} in the student and {other.get(token)} in teacher "
            f"{name!r} ({len(differing)} differ), but distillation compares ids: use models of one tokenizer"
        )
    if max(own.values()) >= min(student.vocab_size, teacher.vocab_size):
        raise UsageError(
            f"the tokenizers reach id {max(own.values())}, but the heads of the student and of teacher "
            f"{name!r} have {student.vocab_size} and {teacher.vocab_size} outputs: resize the embeddings"
        )
    if student.vocab_size == teacher.vocab_size:
        return None
    valid_V = torch.zeros(student.vocab_size, dtype=torch.bool, device=student.device)
    valid_V[list(own.values())] = True
    return valid_V


def vocabulary(student: Policy, name: str, teacher: Policy, rollouts: Rollouts) -> Tensor | None:
    """`shared_ids`: token-to-id maps are equal; padding of unequal heads is masked and never sampled."""
    valid_V = shared_ids(student, name, teacher)
    if valid_V is None:
        return None
    token_N = rollouts.response_BT[rollouts.trained_BT]
    padding_N = token_N[~valid_V[token_N]]
    if len(padding_N):
        raise UsageError(
            f"the student samples id {int(padding_N[0])}, which no token has, but teacher {name!r} cannot "
            "score padding: cut the student's embeddings to its tokenizer, or train it before it is distilled"
        )
    return valid_V


def end_of_sequence(student: Policy, name: str, teacher: Policy) -> None:
    """Both end a turn with the same ids; otherwise the student learns never to stop."""
    own, other = sorted(student.eos_ids), sorted(teacher.eos_ids)
    if own != other or not own:
        raise UsageError(
            f"end-of-sequence ids are {own} in the student and {other} in teacher {name!r}, but both must "
            "end a turn alike: set eos_token_id of config and tokenizer to the id that the template ends with"
        )


def deterministic(name: str, teacher: Policy, rollouts: Rollouts) -> Tensor:
    """hidden_BTD: the same batch scored twice gives the same numbers, bit for bit."""
    first_BTD, second_BTD = hidden_states(teacher, rollouts), hidden_states(teacher, rollouts)
    if not torch.equal(first_BTD, second_BTD):
        raise UsageError(
            f"teacher {name!r} scores one batch differently twice (by up to "
            f"{float((first_BTD - second_BTD).abs().max()):.2g}), but its target must not move: switch off "
            "dropout and any sampling inside the model"
        )
    return first_BTD


@torch.no_grad()
def self_distillation(student: Policy, rollouts: Rollouts, together_BTD: Tensor) -> float:
    """KL between the student's states of a padded, grouped batch and of rows alone without padding, per token."""
    limit = SELF_KL_NATS[student.dtype]
    total = 0.0
    for b, trained_T in enumerate(rollouts.trained_BT):
        length = int(rollouts.present_BT[b].sum())
        alone_1TD = student.hidden(
            rollouts.prompt_BP[b : b + 1, rollouts.prompt_mask_BP[b]],
            rollouts.prompt_mask_BP[b : b + 1, rollouts.prompt_mask_BP[b]],
            rollouts.response_BT[b : b + 1, :length],
        )
        mask_T = trained_T[:length]
        together_NV, alone_NV = (student.logits(x[:length][mask_T]) for x in (together_BTD[b], alone_1TD[0]))
        total += float(reverse_kl(together_NV, alone_NV, mask_T[mask_T].float())[0])
    kl = total / int(rollouts.trained_BT.sum())
    if not abs(kl) <= limit:
        raise UsageError(
            f"the student's KL to itself is {kl:.2g} nats a token, but the same weights must agree within "
            f"{limit:g}: check left padding, positions and dropout, or compute in float32"
        )
    return kl


def own_greedy_output(name: str, mean: float, own: float) -> float:
    """Mean log-prob, as scored in training, of what the teacher itself would say: low if misread.

    Low means below GREEDY_FLOOR and below the student's own by more than GREEDY_SLACK, so that untrained models, which
    are unsure of everything alike, may be tried out.
    """
    if not mean >= min(GREEDY_FLOOR, own - GREEDY_SLACK):
        raise UsageError(
            f"teacher {name!r} gives its own greedy output {mean:.2f} nats a token (the student {own:.2f}), but at "
            f"least {GREEDY_FLOOR} is expected: check its chat template, and that its weights are trained ones"
        )
    return mean


@torch.no_grad()
def greedy_logprob(policy: Policy, prompts: Sequence[str]) -> float:
    """Mean log-prob a token of the policy's own greedy answers."""
    rollouts = _answers(policy, prompts, greedy=True)
    logprob_BT = logprobs(score(policy, rollouts), rollouts, temperature=1.0)
    return float(logprob_BT[rollouts.trained_BT].mean())


def teacher_gradient(
    student: Policy,
    hidden_ND: Tensor,
    teacher: Policy,
    taught_ND: Tensor,
    read: Rollouts,
    loss: TeacherLoss,
    valid_V: Tensor | None,
) -> Tensor:
    """Gradient (N, D) of the stage's loss on the student's final hidden states; these and the teacher's are given.

    `read` are the rollouts as the teacher reads them: the same responses after its own prompts.
    """
    hidden_ND = hidden_ND.detach().requires_grad_()
    with torch.no_grad():
        teacher_logits_NV = teacher.logits(taught_ND)
    token_N = read.response_BT[read.trained_BT]
    weights_N = torch.full(token_N.shape, 1 / len(token_N), device=student.device)
    value, _ = loss(student.logits(hidden_ND), teacher_logits_NV, token_N, weights_N, valid_V)
    return torch.autograd.grad(value, hidden_ND)[0]


def different_gradients(gradients: Mapping[str, Tensor]) -> dict[str, float]:
    """Every pair of teachers, the student among them, pulls the student differently.

    Equal gradients mean equal weights, or a loss that ignores the teacher (as when a reward drowns it).
    """
    found = {}
    for one, other in combinations(gradients, 2):
        a_ND, b_ND = gradients[one], gradients[other]
        distance = float((a_ND - b_ND).norm())
        scale = max(float(a_ND.norm()), float(b_ND.norm()))
        if distance <= SAME_GRADIENT * scale:
            raise UsageError(
                f"teachers {one!r} and {other!r} give the same gradient, but a different teacher must give "
                "another: check that their weights differ and that the loss uses the teacher's scores"
            )
        found[f"{one} | {other}"] = distance / scale
    return found
