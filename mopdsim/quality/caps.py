"""How far a student follows its teachers: the cap, wrong routing, extrapolation, collapse.

Pure functions on scores (arrays of any shape). Without a verifiable reward or extrapolation the cap never
lies above the teacher (tested).
Leaves out: how much of the way to the cap the budget buys (`mopdsim.quality.walk`).
"""

from __future__ import annotations

import numpy as np

from mopdsim.base.arrays import Array, logistic
from mopdsim.base.errors import UsageError
from mopdsim.quality.interference import scaled_gain

COLLAPSE_WIDTH = 0.25  # of the hazard, in ln KL: so that .04 nats a token is safe and .19 is not
COLLAPSE_KEPT = 0.6  # of a recovery, under a foreign teacher (2606.30406)
SIZES_B = (0.5, 30.0)  # student and teacher sizes, billions, between which `across_sizes` was fitted


def same_base(teacher: Array, gap: Array) -> Array:
    """Q* = Q_T - delta for a student from its teacher's base; published students come within half a point."""
    return np.clip(teacher - gap, 0.0, 1.0)


def across_sizes(teacher: Array, *, teacher_b: float, student_b: float) -> Array:
    """Cap of a student of another size: sizes in billions of parameters.

    1 - Q* = .97 N_S^-.30 min(N_T, N_S)^.27 (1 - Q_T)^.95 (2609.32722, fitted from .5 to 30 billion), clipped
    at the teacher: as printed, a large student would beat its teacher by nine points, which pure distillation
    never does.
    """
    if not (teacher_b > 0 and student_b > 0):
        raise UsageError(f"sizes of {teacher_b:g} and {student_b:g} billion parameters: both must be above 0")
    miss = 0.97 * student_b**-0.30 * min(teacher_b, student_b) ** 0.27 * (1 - teacher) ** 0.95
    return np.clip(np.minimum(1 - miss, teacher), 0.0, 1.0)


def misrouted(own: Array, others: Array, probability: float) -> Array:
    """Target when a prompt goes to another domain's teacher with this probability."""
    return (1 - probability) * own + probability * others


def extrapolated(start: Array, teacher: Array, asymptote: Array, factor: float, benefit: Array) -> Array:
    """Target of ExOPD (2602.12125), which scales the teacher's change of the reference by `factor`.

    Below 1 the gain in logits is scaled. Above 1 a share `benefit` of (factor - 1) of the teacher's remaining
    headroom is won, so that an under-trained teacher profits most; never beyond the asymptote.
    """
    if factor <= 1:
        return scaled_gain(start, teacher, np.asarray(factor))
    headroom = np.maximum(asymptote - teacher, 0.0)
    return teacher + headroom * np.clip((factor - 1) * benefit, 0.0, 1.0)


def collapse_hazard(kl: Array, middle: Array) -> Array:
    """Probability that distillation collapses, by the teacher's distance from the student in nats a token.

    Logistic in ln KL: .04 is normal, .19 (a foreign teacher) collapsed in 2606.30406.
    """
    return logistic(np.log(np.maximum(kl, 1e-12) / middle) / COLLAPSE_WIDTH)
