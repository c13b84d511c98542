"""The reverse-time SDE with adaptive step sizes, chosen per example."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from typing_extensions import override

from sde_score.random import mix
from sde_score.samplers.adaptive.engine import Attempt, BatchState, StepSizeController
from sde_score.samplers.adaptive.sampler import AdaptiveSampler, UnitVariancePair, scales
from sde_score.samplers.noise.brownian import BrownianPath
from sde_score.samplers.problem import Problem

# Hashed into the seed of a path: enough bits of the streams that no two examples share one.
_SEED_DRAWS, _SEED_NUMBERS = 4, 4


@dataclass(frozen=True)
class AdaptiveSDE(AdaptiveSampler):
    r"""Euler-Maruyama and improved Euler on the reverse-time SDE, with steps to a tolerance.

    In y = x / alpha and s = sigma / alpha, and over the precision q = 1 / s^2, the reverse-time
    SDE of every diffusion is one with constant noise and no linear part,

    .. math:: d(q y) = \hat x_0\, dq + dw(q),

    so a step from s to r is, by Euler-Maruyama and then by improved Euler with the same noise,

    .. math:: y' &= k y + (1 - k)\, \hat x_0(y, s) + r \sqrt{1 - k}\, z, \qquad k = r^2 / s^2, \\
              y'' &= y' + \tfrac{1 - k}{2} \left[\hat x_0(y', r) - \hat x_0(y, s)\right] .

    Their difference is the error e, y'' is kept (extrapolation), and the next step is 0.9 e^-0.9
    times the last, all as in the paper, which takes its steps in the SDE's own time, where the
    linear part must be stepped over too. A step grows at most twofold here, since with few entries
    the error is small now and then by luck alone, and is rounded to one of eight sizes an
    octave, so that rounding errors of the model do not move it along the path.

    Noise that was seen and then rejected may not be thrown away: large errors come with large
    noise, and drawing afresh would favor small noise. Nor is the same z right for a shorter step.
    So the noise is a Brownian path, and a shorter step takes the part of the path that it covers,
    given all draws before. An error of the size of the tolerance remains, since the steps depend
    on the noise ahead of them.

    A step costs two evaluations, a rejected one one. The arithmetic is float64 around the model.

    Reference: Jolicoeur-Martineau et al. 2021, https://arxiv.org/abs/2105.14080, algorithm 1.
    """

    rtol: float = 0.02
    atol: float = 0.004

    convergence_order = 2

    @property
    @override
    def controller(self) -> StepSizeController:
        return StepSizeController(integral=0.9, grow=2.0, octave=8)

    @override
    def pair(self, problem: Problem, x: Tensor) -> UnitVariancePair:
        path = path_of(problem, x)
        return _ImprovedEuler(problem, x.shape, x.dtype, self.rtol, self.atol, path=path)


def path_of(problem: Problem, x: Tensor) -> BrownianPath:
    """The noise of a problem where it is a Brownian path, or a path seeded by its next draws.

    Args:
        problem: its source of noise is used.
        x: the state, of the shape and on the device of the draws.

    Raises:
        ValueError: if the noise is a path of another shape.
    """
    given = problem.noise
    if not isinstance(given, BrownianPath):
        draws = torch.stack([given().flatten(1)[:, :_SEED_NUMBERS] for _ in range(_SEED_DRAWS)], 1)
        bits = draws.double().view(torch.int64).flatten(1).tolist()
        seeds = [mix(*row) for row in bits]
        return BrownianPath(problem.sde, x.shape, seed=seeds, device=x.device)
    if given.shape != tuple(x.shape):
        raise ValueError(
            f"noise is a path of shape {given.shape} and the samples have {tuple(x.shape)}: "
            "build it with the shape of the samples"
        )
    return given


@dataclass(frozen=True, eq=False)
class _ImprovedEuler(UnitVariancePair):
    """The pair; its second memory is the path at the end of the last accepted step."""

    path: BrownianPath = field(kw_only=True)

    @override
    def memory(self, state: Tensor, level: Tensor) -> tuple[Tensor, ...]:
        return state, self.path.at(-level, torch.arange(len(level), device=level.device))

    @override
    def attempt(self, batch: BatchState, step: Tensor) -> Attempt:
        ahead = batch.time + step
        (alpha, _), (alpha_ahead, sigma_ahead) = scales(batch.time), scales(ahead)
        keep, pull = torch.exp(-2 * step), -torch.expm1(-2 * step)
        reached = self.path.at(-ahead, batch.rows)
        z = (reached - batch.memory[1]) * step.rsqrt()[:, None]
        low = (alpha_ahead / alpha * keep)[:, None] * batch.state
        low.addcmul_((alpha_ahead * pull)[:, None], batch.known)
        low.addcmul_((sigma_ahead * pull.sqrt())[:, None], z)
        change = self.evaluate(low, ahead, batch.rows) - batch.known
        high = torch.addcmul(low, (0.5 * alpha_ahead * pull)[:, None], change)
        return Attempt(high, high - low, (low, reached))
