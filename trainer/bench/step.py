"""How fast and how large a step is: distillation and GRPO, against TRL and against the arithmetic alone.

Both trainers get the same weights, prompts and settings, and take turns step by step, so that whatever else the
machine does hits both. A step is: tokenise, sample exactly 16 tokens, score, forward, backward, clip, AdamW.
The limit is the step's FLOPs over the matrix-product rate measured in the same run at the step's own shape and type.
Leaves out: how TRL is driven (`trainer.bench.trl`), memory (`trainer.bench.memory`), environments, logging.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mopdsim.base.errors import NotFoundError, did_you_mean
from trainer.batch.objective import surrogate
from trainer.batch.rollout import Rollouts, generate
from trainer.batch.score import Scored, logprobs, score
from trainer.batch.update import CPU_PIECE, LossOf, accumulate_gradients
from trainer.losses import losses
from trainer.model import kernels
from trainer.model.parallel import row_spans, side_by_side
from trainer.model.policy import Policy
from trainer.model.sources import PUBLISHED, cached_model
from trainer.model.tiny import byte_tokenizer, random_model, sizes

NEW_TOKENS = 16
LEARNING_RATE = 1e-4
WARM_UP, REPEATS = 2, 5
STUDENT, TEACHER = 0, 1  # seeds of the weights
Against = Literal["trl"] | None


@dataclass(frozen=True, kw_only=True)
class Size:
    """A Qwen3 shape and its batch. prompts: of a distillation step; GRPO draws prompts / group of them."""

    hidden: int
    feed_forward: int
    layers: int
    heads: int
    key_heads: int
    prompts: int
    group: int = 8
    dtype: torch.dtype = torch.float32

    def model(self, seed: int) -> Any:
        """Random weights."""
        tokenizer = byte_tokenizer()
        shape = {
            **sizes(len(tokenizer), self.hidden, self.layers, self.heads),
            "intermediate_size": self.feed_forward,
            "num_key_value_heads": self.key_heads,
        }
        return random_model(shape, tokenizer, seed=seed)

    def tokenizer(self) -> Any:
        return byte_tokenizer()

    def policy(self, seed: int) -> Policy:
        return Policy(self.model(seed), self.tokenizer(), dtype=self.dtype)

    def texts(self, count: int) -> list[str]:
        """Prompts of 8 to 16 tokens."""
        draw = random.Random(0)
        return ["".join(draw.choices("abcdefgh", k=draw.randint(8, 16))) for _ in range(count)]


@dataclass(frozen=True, kw_only=True)
class Real(Size):
    """An open model from its directory, in bfloat16; the teacher is the same with a little noise on its weights."""

    directory: Path
    dtype: torch.dtype = torch.bfloat16

    def model(self, seed: int) -> Any:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(self.directory, dtype=torch.float32)
        torch.manual_seed(seed)
        with torch.no_grad():
            for weight in model.parameters() if seed == TEACHER else ():
                weight.add_(torch.randn_like(weight), alpha=0.02 * float(weight.std()))
        return model

    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.directory, padding_side="left")

    def texts(self, count: int) -> list[str]:
        """Short questions."""
        draw = random.Random(0)
        numbers = [draw.sample(range(100, 1000), 3) for _ in range(count)]
        return [f"Which is the smallest of {a}, {b} and {c}? Answer:" for a, b, c in numbers]


def real_size(directory: Path) -> Real:
    """The sizes are in the model's config.json."""
    config = json.loads((directory / "config.json").read_text())
    return Real(
        hidden=config["hidden_size"],
        feed_forward=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        key_heads=config["num_key_value_heads"],
        prompts=64,
        directory=directory,
    )


SIZES = {
    "0.36M": Size(hidden=96, feed_forward=288, layers=3, heads=4, key_heads=2, prompts=256),
    "100M": Size(hidden=768, feed_forward=2432, layers=14, heads=12, key_heads=4, prompts=16),
}


def size_of(name: str) -> Size:
    """A named size, or a published model that was fetched before. NotFoundError for neither."""
    if name in PUBLISHED:
        place = cached_model(name)
        if place is None:
            raise NotFoundError(
                f"model {name!r} is not here yet: fetch it with `mopd train get-model {name}`"
            )
        return real_size(place)
    if name not in SIZES:
        raise NotFoundError(f"size {name!r} is not one of the benchmark's{did_you_mean(name, SIZES)}")
    return SIZES[name]


class Step:
    """One optimiser step at a time on the same prompts, each with other samples."""

    forward_passes: int  # that its FLOPs amount to: sampling, scoring, and training as three

    def __init__(self, policy: Policy, texts: Sequence[str], group: int) -> None:
        self.policy, self.texts, self.group, self.count = policy, texts, group, 0
        self.optimizer = torch.optim.AdamW(self.policy.parameters(), lr=LEARNING_RATE, fused=True)

    def __call__(self) -> None:
        self.train(self.sample())

    def train(self, rollouts: Rollouts) -> None:
        """The step on samples that are there."""
        accumulate_gradients(self.policy, rollouts, self.loss_of(rollouts))
        torch.nn.utils.clip_grad_norm_(list(self.policy.parameters()), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def sample(self) -> Rollouts:
        self.count += 1
        prompts = self.policy.tokenizer(list(self.texts))["input_ids"]
        return generate(
            self.policy,
            prompts,
            rollouts_per_prompt=self.group,
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
            temperature=1.0,
            seed=self.count,
        )

    def loss_of(self, rollouts: Rollouts) -> LossOf:
        raise NotImplementedError


class DistillStep(Step):
    """Full-vocabulary reverse KL to one teacher in memory."""

    forward_passes = 5

    def __init__(self, size: Size) -> None:
        super().__init__(size.policy(STUDENT), size.texts(size.prompts), 1)
        self.teacher = size.policy(TEACHER).frozen()

    def loss_of(self, rollouts: Rollouts) -> LossOf:
        return reverse_kl(rollouts, [score(self.teacher, rollouts)])


class GrpoStep(Step):
    """GRPO with token-mean loss; the reward counts distinct tokens."""

    forward_passes = 4

    def __init__(self, size: Size) -> None:
        super().__init__(size.policy(STUDENT), size.texts(size.prompts // size.group), size.group)

    def loss_of(self, rollouts: Rollouts) -> LossOf:
        rewards = torch.tensor([distinct(tokens) for tokens in rollouts.response_BT.tolist()])
        advantage_B, _ = losses.group_advantages(rewards, rollouts.group)
        advantage_BT = advantage_B[:, None].expand(rollouts.response_BT.shape)
        weight_BT = losses.token_weights(rollouts.trained_BT)
        return surrogate(rollouts, advantage_BT, weight_BT)


@torch.no_grad()
def log_probs(policy: Policy, rollouts: Rollouts) -> Tensor:
    """logprob_BT of the samples."""
    return logprobs(score(policy, rollouts), rollouts, temperature=1.0)


def distinct(tokens: Sequence[int]) -> float:
    """A reward that costs next to nothing."""
    return float(len(set(tokens)))


def reverse_kl(rollouts: Rollouts, scored: Sequence[Scored]) -> LossOf:
    """Each teacher scored a run of consecutive rows, one after the other."""
    weight_M = losses.token_weights(rollouts.trained_BT).flatten()
    ends = list(accumulate(len(one.hidden_MD) for one in scored))

    def loss_of(logits_NV: Tensor, index_N: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        runs = [(one, end - len(one.hidden_MD), end) for one, end in zip(scored, ends, strict=True)]
        own = [(one, index_N[(index_N >= start) & (index_N < end)] - start) for one, start, end in runs]
        teacher_NV = torch.cat([one.at(at_N) for one, at_N in own if len(at_N)])
        return losses.reverse_kl(logits_NV, teacher_NV, weight_M[index_N])

    return loss_of


def timed(work: Callable[[], object]) -> float:
    """Wall-clock seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def matmul_rate(size: Size) -> float:
    """FLOP/s of products of a step's shape and type on all threads: the best of PyTorch's way and ours."""
    threads = torch.get_num_threads()
    rows = min(CPU_PIECE, size.prompts * 2 * NEW_TOKENS // threads)
    noise = torch.Generator().manual_seed(0)
    x_NI = torch.randn(rows * threads, size.hidden, generator=noise).to(size.dtype)
    weight_OI = torch.randn(size.feed_forward, size.hidden, generator=noise).to(size.dtype)
    flops = 2.0 * x_NI.numel() * len(weight_OI)
    spans = row_spans(len(x_NI), parts=threads)
    ways: list[Callable[[], object]] = [lambda: x_NI @ weight_OI.t()]
    if size.dtype == torch.float32:
        ways.append(lambda: side_by_side(lambda span: kernels.matmul_nt(x_NI[span], weight_OI), spans))
    with torch.no_grad():
        return flops / min(timed(way) for way in ways for _ in range(20))
