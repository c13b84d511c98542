r"""Averages of weights whose length is chosen after training, from snapshots of two others.

A power-function average at time t weighs the weights of time s by a power of s / t,

.. math:: p_{\gamma, t}(s) = \frac{\gamma + 1}{t} \left(\frac{s}{t}\right)^\gamma, \quad
          0 \le s \le t, \qquad
          \sigma_{rel} = \sqrt{\frac{\gamma + 1}{(\gamma + 2)^2 (\gamma + 3)}}

where the standard deviation of s / t, sigma_rel, says how long it is: 0.05 is a twentieth of all of
training. Time is counted in examples, or in steps. Any average is a sum of snapshots of others, up
to what their weights cannot express; the sum is fitted in least squares of p.

Reference: Karras et al. 2024, https://arxiv.org/abs/2312.02696, section 3 and appendix C.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from sde_score._core.checks import require_positive

LONGEST = math.sqrt(1 / 12)
"""sigma_rel of the average that weighs all weights alike, 0.2887; all others are shorter."""


def power_of(sigma_rel: float) -> float:
    r"""The power gamma of an average, the largest root of

    .. math:: \gamma^3 + 7 \gamma^2 + (16 - \sigma_{rel}^{-2}) \gamma + (12 - \sigma_{rel}^{-2})

    Args:
        sigma_rel: length of the average, in (0, 0.2887).

    Raises:
        ValueError: for a length out of range.
    """
    if not 0 < sigma_rel < LONGEST:
        raise ValueError(
            f"sigma_rel={sigma_rel!r} must lie between 0 and {LONGEST:.4f}, that of the average of "
            "all weights"
        )
    inverse = float(sigma_rel) ** -2
    roots = np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse])
    return float(roots[np.abs(roots.imag) < 1e-9 * (1 + np.abs(roots))].real.max())


def sigma_rel_of(gamma: float) -> float:
    """The length of the average with a power.

    Args:
        gamma: the power, 0 or more.
    """
    return math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))


def update_factor(gamma: float, time: float, step: float) -> float:
    r"""The factor of the old average when weights join it, :math:`(1 - step / t)^{\gamma + 1}`.

    Args:
        gamma: the power.
        time: t, the time that the step ends at.
        step: length of the step; the first, from 0, copies the weights.

    Raises:
        ValueError: for a step that is not within the time.
    """
    if not 0 < step <= time:
        raise ValueError(f"step={step!r} must lie in (0, time={time!r}]")
    return float((1 - step / time) ** (gamma + 1))


def inner_products(
    gammas: Tensor, times: Tensor, other_gammas: Tensor, other_times: Tensor
) -> Tensor:
    r"""Inner products of the weight functions of averages, :math:`\int p_a(s) p_b(s) ds`.

    .. math:: \frac{(\gamma_a + 1)(\gamma_b + 1)}{(\gamma_a + \gamma_b + 1) \max(t_a, t_b)}
              \left(\frac{\min(t_a, t_b)}{\max(t_a, t_b)}\right)^{\gamma \text{ of the later}}

    Args:
        gammas: powers of the one.
        times: times of the one.
        other_gammas: powers of the other.
        other_times: times of the other.

    Returns:
        In the shape to which all broadcast.
    """
    late, early = torch.maximum(times, other_times), torch.minimum(times, other_times)
    power = torch.where(times < other_times, other_gammas, gammas)
    scale = (gammas + 1) * (other_gammas + 1) / ((gammas + other_gammas + 1) * late)
    product: Tensor = scale * (early / late) ** power
    return product


def reconstruction_weights(
    times: Sequence[float], sigma_rels: Sequence[float], time: float, sigma_rel: float
) -> Tensor:
    """The factors of stored averages whose sum is another average; they add up to one.

    Args:
        times: of the stored averages.
        sigma_rels: lengths of the stored averages.
        time: of the average that is wanted.
        sigma_rel: its length.

    Returns:
        Shape `(stored,)`, float64.

    Raises:
        ValueError: for lists of different lengths, none stored, or numbers out of range.
    """
    if len(times) != len(sigma_rels) or not len(times):
        raise ValueError(
            f"there must be one time for each sigma_rel, and at least one: got {len(times)} times "
            f"and {len(sigma_rels)} lengths"
        )
    require_positive(time=time, smallest_time=min(times))
    t = torch.tensor(list(times), dtype=torch.float64)
    gamma = torch.tensor([power_of(one) for one in sigma_rels], dtype=torch.float64)
    stored = inner_products(gamma[:, None], t[:, None], gamma, t)
    wanted = inner_products(
        gamma, t, torch.tensor(power_of(sigma_rel)).double(), t.new_tensor(time)
    )
    found: Tensor = torch.linalg.solve(stored, wanted)
    return found / found.sum()


@dataclass(frozen=True)
class Snapshot:
    """A stored average.

    Args:
        time: until which it averages, in examples or in steps.
        sigma_rel: its length.
        state: tensors by name, such as a state dict.
    """

    time: float
    sigma_rel: float
    state: Mapping[str, Tensor] = field(repr=False)


def reconstruct(
    snapshots: Sequence[Snapshot], sigma_rel: float, time: float | None = None
) -> dict[str, Tensor]:
    """The average of another length, from snapshots at or before a time.

    The error of 32 snapshots of the lengths 0.05 and 0.10, evenly spaced, is about 2e-4 of the
    weights at 0.15, and 3e-3 at 0.20; of 16 it is ten times as much.

    Args:
        snapshots: of the same network; of two lengths, over all of training.
        sigma_rel: length of the average, in (0, 0.2887).
        time: of the average; None for that of the last snapshot.

    Returns:
        Tensors by name, in their dtype, summed in float32 at least; those that are not floating
        point are those of the last snapshot.

    Raises:
        ValueError: for no snapshot at or before the time, two of the same time and length, or
            snapshots of different networks.
    """
    if time is None:
        time = max((one.time for one in snapshots), default=0.0)
    used = sorted((one for one in snapshots if one.time <= time), key=lambda one: one.time)
    if not used:
        raise ValueError(f"there is no snapshot at or before time={time!r}")
    kinds = [(one.time, one.sigma_rel) for one in used]
    if len(set(kinds)) < len(kinds):
        raise ValueError("two snapshots have the same time and sigma_rel: leave one out")
    for one in used:
        if set(one.state) != set(used[-1].state):
            raise ValueError(
                f"the snapshots at {one.time} and {used[-1].time} hold tensors of different names: "
                "they must be of one network"
            )
    weights = reconstruction_weights([k[0] for k in kinds], [k[1] for k in kinds], time, sigma_rel)
    found = {}
    for name, last in used[-1].state.items():
        if not last.is_floating_point():
            found[name] = last.clone()
            continue
        total = torch.zeros_like(last, dtype=torch.promote_types(last.dtype, torch.float32))
        for weight, one in zip(weights.tolist(), used, strict=True):
            total.add_(one.state[name].to(total), alpha=weight)
        found[name] = total.to(last.dtype)
    return found
