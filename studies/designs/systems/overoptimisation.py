"""Reward-model over-optimisation: true score against distance, for PPO and for best-of-n, on the same reward models.

Gao et al. (2210.10760): with d = sqrt(KL(policy || start)) in nats a response, the gain in true reward is
d (alpha - beta log d) under RL and d (alpha - beta d) under best-of-n. Reward models of several label noises and sizes
judge samples of one start; PPO climbs them without a KL penalty; best-of-n has KL = log n - (n - 1) / n by its
definition and is estimated without bias from all subsets of N samples. Leaves out: other tasks and sizes.

Axes: U prompts, N samples of a prompt.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import BASE, Amounts, RewardModel, Rl, default_amounts
from studies.designs.builders import composed
from studies.designs.systems.side_by_side import Engine
from studies.framework.run import Run
from trainer.batch.batch import sample
from trainer.batch.heads import load_reward_model, scores
from trainer.files.settings import Settings
from trainer.model.loading import load_policy
from trainer.stages.loop import Job

DOMAINS = ("sort", "reverse", "shift")
NOISES = (0.0, 0.16, 0.3)
LABELLING_STEPS = (4, 60)  # of the reward model: few and many comparisons
PPO = Amounts(steps=160, prompts_per_step=32, rollouts_per_prompt=8, learning_rate=3e-4)
PROMPTS, SAMPLES = 100, 256  # of best-of-n, a domain
CHOICES = (1, 2, 4, 8, 16, 32, 64, 128)
Floats = NDArray[np.float64]


def run_overoptimisation(*, seeds: Sequence[int], ppo: Amounts = PPO, engine: Engine) -> dict[str, Any]:
    """Run what the store does not hold; the document of `mopd study overoptimisation --json`."""
    runs = [
        Run(
            name=f"noise{noise:g}/steps{steps}/seed{seed}",
            recipe=_recipe(noise, steps, ppo),
            settings=Settings(
                seed=seed, validation_items=200, test_items=400, evaluate_every=8, max_truncation=1.0
            ),
            factors={"noise": noise, "labelling_steps": steps},
        )
        for seed in seeds
        for noise, steps in itertools.product(NOISES, LABELLING_STEPS)
    ]
    curves = []
    for found in engine.carry_out(runs).values():
        judged = found.domains("judge").values()
        about = {"seed": found.run.settings.seed, **found.run.factors}
        about["accuracy"] = sum(row["accuracy"] for row in judged) / len(judged)
        climbed = ppo_curve(found.nodes["ppo"].job.directory / "metrics.jsonl")
        chosen = best_of_n(found.nodes["judge"].job)
        for method, points in (("ppo", climbed), ("best_of_n", chosen)):
            curves.append({**about, "method": method, "points": points, "fit": fit(points, method)})
    return {"domains": list(DOMAINS), "seeds": list(seeds), "curves": curves}


def _recipe(noise: float, steps: int, ppo: Amounts) -> Recipe:
    """A reward model of the start's samples, and PPO against it with nothing to hold it back."""
    equal = dict.fromkeys(DOMAINS, 1.0)
    judge = RewardModel(name="judge", domains=equal, noise=noise)
    rewarded = dict.fromkeys(DOMAINS, "judge")
    climb = Rl(name="ppo", domains=equal, algorithm="ppo", clip_high=0.2, reward_models=rewarded)
    labelling = default_amounts("tiny", "reward_model").model_copy(update={"steps": steps})
    return composed("overoptimisation", DOMAINS, [(judge, labelling), (climb, ppo)])


def ppo_curve(log: Path) -> list[dict[str, float]]:
    """Points of a run from its log: d from the validation samples' KL, true score, and the judge's mean score of the
    nearest step's training samples. Means over domains."""
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    judged = {row["step"]: row["judged_reward"] for row in rows if row["kind"] == "step"}
    points = []
    for row in rows:
        if row["kind"] != "evaluation" or row["split"] != "validation":
            continue
        domains = [row["domains"][name] for name in DOMAINS]  # probes are scored beside them
        kl = statistics.mean(max(d["kl_start"], 0.0) * d["length"] for d in domains)
        gold = statistics.mean(d["pass_rate"] for d in domains)
        points.append({"d": math.sqrt(kl), "gold": gold, "judged": judged[row["step"]], "step": row["step"]})
    return points


def best_of_n(judge: Job) -> list[dict[str, float]]:
    """Points for each n: the start's answers to validation prompts, the best by the judge, its true score."""
    settings = judge.settings
    policy = load_policy(judge.weights[BASE], device=settings.device, dtype=settings.dtype)
    model = load_reward_model(judge.directory / "weights", device=settings.device, dtype=settings.dtype)
    golds, proxies = [], []
    for name, task in judge.tasks().items():
        if name not in judge.domains:
            continue
        batch = sample(
            policy,
            {name: task},
            task.fixed("validation", PROMPTS),
            domains=[name] * PROMPTS,
            rollouts_per_prompt=SAMPLES,
            temperature=settings.temperature,
            seed=judge.seed("best of n", name),
            grader=lambda task, item, said: task.grade(item, said),
        )
        golds.append(batch.reward_B.view(PROMPTS, SAMPLES).double().numpy())
        proxies.append(scores(model, batch.rollouts).view(PROMPTS, SAMPLES).double().numpy())
    gold_UN, proxy_UN = np.concatenate(golds), np.concatenate(proxies)
    return [
        {
            "n": float(n),
            "d": math.sqrt(math.log(n) - (n - 1) / n),
            "gold": expected_best(gold_UN, proxy_UN, n),
            "judged": expected_best(proxy_UN, proxy_UN, n),
        }
        for n in CHOICES
    ]


def expected_best(value_UN: Floats, proxy_UN: Floats, n: int) -> float:
    """Mean over prompts of E[value of the best by proxy of n], over all subsets of n of the N samples: the sample of
    rank i (from 1, worst first) is the best of C(i - 1, n - 1) of the C(N, n) subsets. Ties by place."""
    count = value_UN.shape[1]
    order_UN = np.argsort(proxy_UN, axis=1, kind="stable")
    rank_N = np.arange(1, count + 1)
    log_share_N = _log_choose(rank_N - 1, n - 1) - _log_choose(np.array([count]), n)
    return float((np.take_along_axis(value_UN, order_UN, axis=1) * np.exp(log_share_N)).sum(axis=1).mean())


def _log_choose(total_N: NDArray[np.int64], chosen: int) -> Floats:
    """log C(total, chosen), -inf where chosen > total."""
    from scipy.special import gammaln

    some_N = np.maximum(total_N, chosen)
    value_N = gammaln(some_N + 1) - gammaln(chosen + 1) - gammaln(some_N - chosen + 1)
    return np.where(total_N < chosen, -np.inf, value_N)


def fit(points: Sequence[Mapping[str, float]], method: str) -> dict[str, float | None]:
    """alpha and beta by least squares on the gain over the first point, the distance of the peak (None: none within
    the data or beta not positive), and the residual's standard deviation."""
    used = [point for point in points if point["d"] > 0]
    d_N = np.array([point["d"] for point in used])
    gain_N = np.array([point["gold"] for point in used]) - points[0]["gold"]
    bend_N = d_N * np.log(d_N) if method == "ppo" else d_N**2
    design_N2 = np.stack([d_N, -bend_N], axis=1)
    (alpha, beta), *_ = np.linalg.lstsq(design_N2, gain_N, rcond=None)
    peak = None
    if beta > 0:
        peak = math.exp(min(alpha / beta - 1, 50.0)) if method == "ppo" else alpha / (2 * beta)
    residual = gain_N - design_N2 @ np.array([alpha, beta])
    return {
        "alpha": float(alpha),
        "beta": float(beta),
        "peak": None if peak is None or peak > d_N.max() else float(peak),
        "residual_sd": float(residual.std()),
    }


def overoptimisation_text(result: Mapping[str, Any]) -> str:
    """Each curve's start, best and last true score, and where it peaks."""
    lines = [
        f"{'judge':<34}{'accuracy':>9}  {'method':<10}{'start':>7}{'best':>7}{'at d':>6}{'last':>7}{'at d':>6}"
    ]
    for curve in result["curves"]:
        points: Sequence[Mapping[str, float]] = curve["points"]
        best, last = max(points, key=lambda point: point["gold"]), points[-1]
        judge = f"noise {curve['noise']:g}, {curve['labelling_steps']} steps, seed {curve['seed']}"
        lines.append(
            f"{judge:<34}{curve['accuracy']:>9.2f}  {curve['method']:<10}{points[0]['gold']:>7.2f}{best['gold']:>7.2f}"
            f"{best['d']:>6.2f}{last['gold']:>7.2f}{last['d']:>6.2f}"
        )
    return "\n".join(lines)
