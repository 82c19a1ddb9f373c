"""Preflight on tiny random Qwen3 models: a sound setting passes, and each planted fault is named."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from mopdsim.base.errors import UsageError
from trainer.batch.rollout import Rollouts
from trainer.losses import losses
from trainer.model.policy import Policy
from trainer.stages import preflight

LETTERS = "abcdefghijklmnopqrstuvwxyz: "
TEMPLATE = "{% for m in messages %}u: {{ m['content'] }} {% endfor %}a: "
PROMPTS = ["sort ba", "say hello", "c"]


def full_reverse_kl(
    student_NV: Tensor, teacher_NV: Tensor, token_N: Tensor, weights_N: Tensor, valid_V: Tensor | None
):
    return losses.reverse_kl(student_NV, teacher_NV, weights_N, valid_V=valid_V)


def checked(student, teachers, prompts, loss=full_reverse_kl):
    opened = {name: partial(nullcontext, teacher) for name, teacher in teachers.items()}
    return preflight.preflight(student, opened, prompts, loss=loss)


def tokenizer(letters: str = LETTERS, template: str = TEMPLATE) -> PreTrainedTokenizerFast:
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<end>", *letters])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<end>", chat_template=template
    )


def policy(
    seed: int, *, vocab_size: int = 30, text: PreTrainedTokenizerFast | None = None, **changes: Any
) -> Policy:
    torch.manual_seed(seed)
    config = Qwen3Config(
        **{
            "vocab_size": vocab_size,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "tie_word_embeddings": False,
            "initializer_range": 0.5,
            "eos_token_id": 1,
            "pad_token_id": 0,
            "bos_token_id": None,
            **changes,
        }
    )
    made = Qwen3ForCausalLM(config)
    with torch.no_grad():
        made.lm_head.weight.mul_(4)  # peaked, as a trained model is
        made.lm_head.weight[30:] = 0
    return Policy(made, text or tokenizer())


@pytest.fixture(scope="module")
def student() -> Policy:
    return policy(0)


@pytest.fixture(scope="module")
def teachers() -> dict[str, Policy]:
    return {"one": policy(1), "two": policy(2)}


def test_a_sound_setting_passes_every_check(student: Policy, teachers: dict[str, Policy]) -> None:
    found = checked(student, teachers, PROMPTS)
    assert abs(found["self_kl"]) < 1e-5
    assert found["greedy_logprob"].keys() == teachers.keys()
    distances = found["gradient_distance"].values()
    assert len(distances) == 3 and min(distances) > 0.1


def test_teachers_may_be_loaded_one_at_a_time(student: Policy, teachers: dict[str, Policy]) -> None:
    told: list[str] = []

    @contextmanager
    def opened(name: str) -> Iterator[Policy]:
        told.append(f"{name} loaded")
        yield teachers[name]
        told.append(f"{name} let go")

    on_demand = {name: partial(opened, name) for name in teachers}
    preflight.preflight(student, on_demand, PROMPTS, loss=full_reverse_kl)
    assert told == ["one loaded", "one let go", "two loaded", "two let go"]


@pytest.mark.parametrize(
    ("letters", "named"),
    [
        ("ba" + LETTERS[2:], "token 'a' has id 2 in the student and 3"),
        (LETTERS[:-1], "token ' ' has id 29 .* None"),
    ],
    ids=["swapped", "shorter"],
)
def test_another_tokenizer_is_refused_though_sizes_agree(student: Policy, letters: str, named: str) -> None:
    with pytest.raises(UsageError, match=f"{named}.*one tokenizer"):
        checked(student, {"t": policy(1, text=tokenizer(letters))}, PROMPTS)


@pytest.mark.parametrize("student_size", [30, 40])
def test_padding_of_unequal_heads_is_masked(student_size: int) -> None:
    student, teacher = policy(0, vocab_size=student_size), policy(1, vocab_size=36)
    valid_V = preflight.shared_ids(student, "t", teacher)
    assert valid_V is not None
    assert valid_V.tolist() == [True] * 30 + [False] * (student_size - 30)
    checked(student, {"t": teacher}, PROMPTS)
    with torch.no_grad():
        student.head.weight[30:] = 20 * student.head.weight[:1]
    if student_size == 40:
        with pytest.raises(UsageError, match=r"samples id 3\d, which no token has"):
            checked(student, {"t": teacher}, PROMPTS)


def test_equal_heads_need_no_mask(student: Policy, teachers: dict[str, Policy]) -> None:
    assert preflight.shared_ids(student, "one", teachers["one"]) is None


def test_a_token_without_a_place_in_the_head_is_refused(student: Policy) -> None:
    narrow = policy(1, vocab_size=29)
    with pytest.raises(UsageError, match=r"reach id 29, but the heads .* 30 and 29 outputs: resize"):
        checked(student, {"t": narrow}, PROMPTS)


def test_other_end_of_sequence_ids_are_refused(student: Policy) -> None:
    with pytest.raises(
        UsageError, match=r"ids are \[1\] in the student and \[1, 5\] in teacher 't'.*eos_token_id"
    ):
        checked(student, {"t": policy(1, eos_token_id=[1, 5])}, PROMPTS)


def test_no_end_of_sequence_at_all_is_refused(student: Policy, teachers: dict[str, Policy]) -> None:
    endless, also = copy.copy(student), copy.copy(teachers["one"])
    endless.eos_ids = also.eos_ids = frozenset()
    with pytest.raises(UsageError, match=r"ids are \[\] in the student"):
        preflight.end_of_sequence(endless, "t", also)


def test_another_chat_template_is_used(student: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = policy(1, text=tokenizer(template="hey " + TEMPLATE))
    width: dict[bool, set[int]] = {True: set(), False: set()}
    score = preflight.hidden_states

    def watched(who: Policy, rollouts: Rollouts) -> Tensor:
        width[who is teacher].add(rollouts.prompt_BP.shape[1])
        return score(who, rollouts)

    monkeypatch.setattr(preflight, "hidden_states", watched)
    checked(student, {"t": teacher}, PROMPTS)
    (own,), (theirs,) = width[False], width[True]
    assert theirs == own + len("hey ")


def test_a_teacher_without_a_template_is_refused(student: Policy) -> None:
    with pytest.raises(UsageError, match="no chat template"):
        checked(student, {"t": policy(1, text=tokenizer(template=""))}, PROMPTS)


def become(kind: type[Policy], sound: Policy) -> Policy:
    """The same policy with another class's faulty methods (its constructor would notice them)."""
    made = kind.__new__(kind)
    made.__dict__ = sound.__dict__
    return made


class Noisy(Policy):
    """Adds noise to every pass: a teacher with dropout left on."""

    def hidden_at(self, *args: Any, **options: Any) -> Tensor:
        clean = super().hidden_at(*args, **options)
        return clean + 1e-3 * torch.randn_like(clean)


def test_scores_that_change_are_refused(student: Policy) -> None:
    with pytest.raises(UsageError, match=r"teacher 't' scores one batch differently twice.*dropout"):
        checked(student, {"t": become(Noisy, policy(1))}, PROMPTS)


class Shifted(Policy):
    """Lets padding move the positions: rows of a padded batch are not what they are alone."""

    def hidden_at(self, prompt_BP: Tensor, prompt_mask_BP: Tensor, *rest: Any, **options: Any) -> Tensor:
        return super().hidden_at(prompt_BP, torch.ones_like(prompt_mask_BP), *rest, **options)


def test_a_student_that_is_not_itself_is_refused(teachers: dict[str, Policy]) -> None:
    with pytest.raises(UsageError, match=r"KL to itself is .* 1e-05: check left padding"):
        checked(become(Shifted, policy(0)), teachers, PROMPTS)


def test_equal_teachers_and_a_teacher_equal_to_the_student_are_refused(student: Policy) -> None:
    with pytest.raises(UsageError, match="'one' and 'two' give the same gradient"):
        checked(student, {"one": policy(1), "two": policy(1)}, PROMPTS)
    with pytest.raises(UsageError, match="'the student itself' and 'one' give the same gradient"):
        checked(student, {"one": policy(0)}, PROMPTS)


def test_a_loss_that_ignores_the_teacher_is_refused(student: Policy, teachers: dict[str, Policy]) -> None:
    def reward_only(
        student_logits_NV: Tensor,
        teacher_logits_NV: Tensor,
        token_N: Tensor,
        weights_N: Tensor,
        valid_V: Tensor | None,
    ) -> losses.Loss:
        return losses.cross_entropy(student_logits_NV, token_N, weights_N)

    with pytest.raises(UsageError, match="give the same gradient"):
        checked(student, teachers, PROMPTS, loss=reward_only)


def test_joint_distillation_and_reward_passes(student: Policy, teachers: dict[str, Policy]) -> None:
    def joint(
        student_logits_NV: Tensor,
        teacher_logits_NV: Tensor,
        token_N: Tensor,
        weights_N: Tensor,
        valid_V: Tensor | None,
    ) -> losses.Loss:
        own, _ = losses.token_logprob(student_logits_NV, token_N)
        theirs, _ = losses.token_logprob(teacher_logits_NV, token_N)
        reward = torch.ones_like(own)
        return losses.sampled_token(own, theirs, own.detach(), weights_N, max_ratio=2.0, paid_N=5.0 * reward)

    checked(student, teachers, PROMPTS, loss=joint)


def test_a_teacher_that_doubts_its_own_output_is_refused(student: Policy) -> None:
    untrained = policy(1)
    with torch.no_grad():
        untrained.head.weight.mul_(0.01)
    with pytest.raises(UsageError, match=r"own greedy output -3\.\d\d nats.*chat template"):
        checked(student, {"t": untrained}, PROMPTS)


def test_teacher_gradient_is_that_of_the_loss_on_the_logits(
    student: Policy, teachers: dict[str, Policy]
) -> None:
    """By hand: dL/dhidden = (1/N) p (log p/q - KL) W for a linear head W."""
    teacher = teachers["one"]
    opened = student.chat.prompts(PROMPTS)
    rollouts = preflight.generate(
        student, opened, rollouts_per_prompt=1, max_new_tokens=5, temperature=1.0, seed=3
    )
    hidden_ND, taught_ND = (
        preflight.hidden_states(who, rollouts)[rollouts.trained_BT] for who in (student, teacher)
    )
    found = preflight.teacher_gradient(
        student, hidden_ND, teacher, taught_ND, rollouts, full_reverse_kl, None
    )
    with torch.no_grad():
        log_p, log_q = (
            who.logits(states_ND).log_softmax(-1)
            for who, states_ND in ((student, hidden_ND), (teacher, taught_ND))
        )
        ratio = log_p - log_q
        kl = (log_p.exp() * ratio).sum(-1, keepdim=True)
        truth = log_p.exp() * (ratio - kl) @ student.head.weight / len(kl)
    torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-6)
