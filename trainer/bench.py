"""How fast and how large a step is: distillation and GRPO, against TRL and against the arithmetic alone.

Both trainers get the same weights, prompts and settings, and take turns step by step, so that whatever else the
machine does hits both. A step is: tokenise, sample exactly 16 tokens, score, forward, backward, clip, AdamW.
The limit is the step's FLOPs over the matrix-product rate measured in the same run at the step's own shape.
Leaves out: how TRL is driven (`trainer.bench_trl`), environments, logging, checkpoints.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mopdsim.errors import MopdError
from trainer import kernels, losses
from trainer.bank import Bank, Scored
from trainer.meter import forward_flops
from trainer.models import load_policy, save_policy
from trainer.parallel import row_spans, side_by_side
from trainer.policy import Policy
from trainer.rollout import Rollouts, generate
from trainer.tiny import byte_tokenizer
from trainer.update import CPU_PIECE, LossOf, accumulate_gradients, hidden_states

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

    def model(self, seed: int) -> Any:
        """Random weights."""
        from transformers import Qwen3Config, Qwen3ForCausalLM

        tokenizer = byte_tokenizer()
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=len(tokenizer),
                hidden_size=self.hidden,
                intermediate_size=self.feed_forward,
                num_hidden_layers=self.layers,
                num_attention_heads=self.heads,
                num_key_value_heads=self.key_heads,
                head_dim=self.hidden // self.heads,
                max_position_embeddings=512,
                tie_word_embeddings=True,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
                bos_token_id=None,
            )
        )

    def policy(self, seed: int) -> Policy:
        return Policy(self.model(seed), byte_tokenizer())

    def texts(self, count: int) -> list[str]:
        """Prompts of 8 to 16 tokens."""
        draw = random.Random(0)
        return ["".join(draw.choices("abcdefgh", k=draw.randint(8, 16))) for _ in range(count)]


SIZES = {
    "0.36M": Size(hidden=96, feed_forward=288, layers=3, heads=4, key_heads=2, prompts=256),
    "100M": Size(hidden=768, feed_forward=2432, layers=14, heads=12, key_heads=4, prompts=16),
}


class _Step:
    """One optimiser step at a time on the same prompts, each with other samples."""

    def __init__(self, size: Size, texts: Sequence[str], group: int) -> None:
        self.policy, self.texts, self.group, self.count = size.policy(STUDENT), texts, group, 0
        self.optimizer = torch.optim.AdamW(self.policy.parameters(), lr=LEARNING_RATE, fused=True)

    def __call__(self) -> None:
        rollouts = self.sample()
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


class DistillStep(_Step):
    """Full-vocabulary reverse KL to one teacher in memory."""

    forward_passes = 5  # sampling, scoring, and training as three

    def __init__(self, size: Size) -> None:
        super().__init__(size, size.texts(size.prompts), 1)
        self.teacher = size.policy(TEACHER)

    def loss_of(self, rollouts: Rollouts) -> LossOf:
        hidden_MD = hidden_states(self.teacher, rollouts).flatten(0, 1)
        return _reverse_kl(rollouts, [Scored(hidden_MD=hidden_MD, logits=self.teacher.logits)])


class GrpoStep(_Step):
    """GRPO with token-mean loss; the reward counts distinct tokens."""

    forward_passes = 4

    def __init__(self, size: Size) -> None:
        super().__init__(size, size.texts(size.prompts // size.group), size.group)

    def loss_of(self, rollouts: Rollouts) -> LossOf:
        rewards = torch.tensor([distinct(tokens) for tokens in rollouts.response_BT.tolist()])
        advantage_B, _ = losses.group_advantages(rewards, rollouts.group)
        weight_M = losses.token_weights(rollouts.trained_BT).flatten()
        token_M, behaviour_M = rollouts.response_BT.flatten(), rollouts.logprob_BT.flatten()
        width = rollouts.response_BT.shape[1]

        def loss_of(logits_NV: Tensor, index_N: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            logprob_N, _ = losses.token_logprob(logits_NV, token_M[index_N])
            return losses.policy_gradient(
                logprob_N,
                behaviour_M[index_N],
                advantage_B[index_N // width],
                weight_M[index_N],
                clip_low=0.2,
                clip_high=0.28,
            )

        return loss_of


def distinct(tokens: Sequence[int]) -> float:
    """A reward that costs next to nothing."""
    return float(len(set(tokens)))


def _reverse_kl(rollouts: Rollouts, scored: Sequence[Scored]) -> LossOf:
    """Each teacher scored an equal run of consecutive rows."""
    weight_M = losses.token_weights(rollouts.trained_BT).flatten()
    places = rollouts.trained_BT.numel() // len(scored)

    def loss_of(logits_NV: Tensor, index_N: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            own = [
                (index_N[index_N // places == k] - k * places, teacher) for k, teacher in enumerate(scored)
            ]
            teacher_NV = torch.cat([one.logits(one.hidden_MD[at_N]) for at_N, one in own if len(at_N)])
        return losses.reverse_kl(logits_NV, teacher_NV, weight_M[index_N])

    return loss_of


def bench_distill(name: str = "0.36M", *, against: Against = None, repeats: int = REPEATS) -> dict[str, Any]:
    """Seconds of a distillation step: medians, ratios to TRL and to the limit, warm-up apart."""
    step = DistillStep(SIZES[name])
    if against is None:
        return _report(name, step, *_alone(step, repeats))
    from trainer.bench_trl import distill

    theirs = distill(SIZES[name], SIZES[name].texts(SIZES[name].prompts), step, WARM_UP + repeats)
    loss = _loss_on(step.__class__(SIZES[name]), theirs.first_batch)
    own = {"trl_first_loss": theirs.first_loss, "our_loss_on_its_batch": loss}
    return _report(name, step, theirs.between, theirs.seconds) | own


def bench_grpo(name: str = "0.36M", *, against: Against = None, repeats: int = REPEATS) -> dict[str, Any]:
    """Seconds of a GRPO step, as `bench_distill`."""
    size = SIZES[name]
    step = GrpoStep(size)
    if against is None:
        return _report(name, step, *_alone(step, repeats))
    from trainer.bench_trl import grpo

    theirs = grpo(size, size.texts(size.prompts // size.group), step, WARM_UP + repeats)
    return _report(name, step, theirs.between, theirs.seconds)


def _alone(step: _Step, repeats: int) -> tuple[list[float], None]:
    return [timed(step) for _ in range(WARM_UP + repeats)], None


def timed(work: Callable[[], object]) -> float:
    """Wall-clock seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _report(name: str, step: Any, ours: list[float], theirs: list[float] | None) -> dict[str, Any]:
    flops = step.forward_passes * forward_flops(step.policy, step.sample())
    rate = matmul_rate(SIZES[name])
    seconds = statistics.median(ours[WARM_UP:])
    found = {
        "ours_s": seconds,
        "ours_all_s": ours[WARM_UP:],
        "warm_up_s": ours[:WARM_UP],
        "threads": torch.get_num_threads(),
        "rows": len(step.texts) * step.group,
        "step_gflop": flops / 1e9,
        "matmul_gflop_per_s": rate / 1e9,
        "limit_s": flops / rate,
        "ratio_to_limit": seconds * rate / flops,
    }
    if theirs is not None:
        other = statistics.median(theirs[WARM_UP:])
        found |= {"trl_s": other, "trl_all_s": theirs[WARM_UP:], "trl_warm_up_s": theirs[:WARM_UP]}
        found["ratio_to_trl"] = seconds / other
    return found


def matmul_rate(size: Size) -> float:
    """FLOP/s of float32 products of a step's shape on all threads: the best of PyTorch's way and ours."""
    threads = torch.get_num_threads()
    rows = min(CPU_PIECE, size.prompts * 2 * NEW_TOKENS // threads)
    noise = torch.Generator().manual_seed(0)
    x_NI = torch.randn(rows * threads, size.hidden, generator=noise)
    weight_OI = torch.randn(size.feed_forward, size.hidden, generator=noise)
    flops = 2.0 * x_NI.numel() * len(weight_OI)
    spans = row_spans(len(x_NI), parts=threads)
    ways: list[Callable[[], object]] = [
        lambda: x_NI @ weight_OI.t(),
        lambda: side_by_side(lambda span: kernels.matmul_nt(x_NI[span], weight_OI), spans),
    ]
    with torch.no_grad():
        return max(flops / statistics.median(timed(way) for _ in range(20)) for way in ways)


def _loss_on(step: DistillStep, batch: Rollouts) -> float:
    return accumulate_gradients(step.policy, batch, step.loss_of(batch))[0]


def bench_memory(name: str = "100M", *, teachers: Sequence[int] = (1, 4)) -> dict[str, Any]:
    """Peak resident bytes of a distillation step above the level after the imports, each in a fresh process.

    Teachers lie on disk and are loaded one at a time by `trainer.bank`; each scores its own share of the prompts.
    """
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(max(teachers) + 1):
            save_policy(SIZES[name].policy(seed), Path(folder) / str(seed))
        for count in teachers:
            code = "import sys; from trainer.bench import memory_of_a_step as run; run(*sys.argv[1:])"
            command = [sys.executable, "-c", code, name, folder, str(count)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise MopdError(
                    f"the memory measurement with {count} teachers failed: {done.stderr.strip()[-500:]}"
                )
            peaks[count] = json.loads(done.stdout.splitlines()[-1])
    least, most = peaks[min(teachers)], peaks[max(teachers)]
    return {
        "size": name,
        "teachers": {str(count): peak for count, peak in peaks.items()},
        "ratio": most["above_imports_bytes"] / least["above_imports_bytes"],
    }


def memory_of_a_step(name: str, folder: str, count: str) -> None:
    """Runs in the fresh process; prints one line of JSON."""
    import transformers.models.qwen3.modeling_qwen3  # noqa: F401  (what loading would import)

    before = _resident("VmRSS")
    size = SIZES[name]
    step = _MemoryStep(size, Path(folder), int(count))
    step()
    step()
    peak = _resident("VmHWM")
    print(json.dumps({"above_imports_bytes": peak - before, "after_imports_bytes": before}))


class _MemoryStep(_Step):
    def __init__(self, size: Size, folder: Path, count: int) -> None:
        super().__init__(replace(size), size.texts(size.prompts), 1)
        self.policy = load_policy(folder / str(STUDENT))
        self.optimizer = torch.optim.AdamW(self.policy.parameters(), lr=LEARNING_RATE, fused=True)
        self.names = [str(seed) for seed in range(1, count + 1)]
        self.bank = Bank({n: folder / n for n in self.names}, lambda n: load_policy(folder / n))

    def loss_of(self, rollouts: Rollouts) -> LossOf:
        spans = row_spans(len(rollouts.prompt_BP), parts=len(self.names))
        scored = [self.bank.score(n, rollouts.rows(s)) for n, s in zip(self.names, spans, strict=True)]
        return _reverse_kl(rollouts, scored)


def _resident(field: str) -> int:
    """Bytes, of this process alone (`ru_maxrss` would start at the parent's)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise MopdError(f"/proc/self/status has no {field}: the memory benchmark needs Linux")
