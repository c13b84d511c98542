"""Linear-Gaussian problems, and the exact distribution of what a sampler makes of them.

Data are N(0, C) in eight dimensions, C with eigenvalues 1 / k^2 turned at random, and two random
combinations of them are measured. Denoisers are affine then, and so are the steps of every sampler
that is linear in the denoised mean: the mean and covariance of its samples follow by a recursion,
without sampling noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sde_score.models import GaussianMixture, Model
from sde_score.posterior import Matrix, Measurement, Operator
from sde_score.samplers import Multistep, Sampler
from sde_score.samplers.problem import Problem
from sde_score.sdes import EDM, SDE

SIZE = 8
COUNT = 20
"""Problems of a table."""


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal draws in float64."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Linear:
    """A problem and its answer.

    Args:
        prior: N(0, C), noised.
        seen: what was measured.
        data: C, shape `(d, d)`.
        mean: of the posterior, shape `(d,)`.
        covariance: of the posterior, shape `(d, d)`.
    """

    prior: GaussianMixture
    seen: Measurement
    data: Tensor
    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(
        cls, covariance: np.ndarray, operator: Operator, y: np.ndarray, std: float, sde: SDE
    ) -> Linear:
        """The problem of C, A, y and the deviation of its noise."""
        c, a, seen = torch.from_numpy(covariance), operator.matrix, torch.from_numpy(y)
        noise = std**2 * torch.eye(len(a), dtype=torch.float64)
        gain = c @ a.T @ torch.linalg.inv(a @ c @ a.T + noise)
        zero = torch.zeros(1, *operator.event_shape, dtype=torch.float64)
        return cls(
            GaussianMixture(zero, c[None], sde),
            Measurement(operator, seen.reshape(operator.measured_shape), std),
            c, gain @ seen, c - gain @ a @ c,
        )  # fmt: skip

    @property
    def posterior(self) -> GaussianMixture:
        """The posterior as an exact model."""
        shape = self.seen.operator.event_shape
        return GaussianMixture(self.mean.reshape(1, *shape), self.covariance[None], self.prior.sde)


def problems(
    std: float, sde: SDE | None = None, operator: Operator | None = None, count: int = COUNT
) -> Iterator[Linear]:
    """Problems from one stream of NumPy's default generator with seed 0: of each the turn of C, the
    matrix of A, x0 by the Cholesky factor of C, and the noise of y.

    Medians over twenty of them depend on which: those of C-DPS at 20 steps lie between 90 and 7e4,
    of SDA between 1.5 and 180, of PiGDM between .69 and .99. So the stream is part of the table.

    Args:
        std: deviation of the noise of y.
        sde: the diffusion; EDM's from .002 to 80 if not given.
        operator: in the place of a random 2 x 8 matrix of variance 1 / 8.
        count: of problems.
    """
    stream = np.random.default_rng(0)
    values = 1 / np.arange(1, SIZE + 1) ** 2
    sde = EDM(sigma_min=0.002, sigma_max=80.0) if sde is None else sde
    for _ in range(count):
        turn = np.linalg.qr(stream.standard_normal((SIZE, SIZE)))[0]
        covariance = (turn * values) @ turn.T
        matrix = stream.standard_normal((2, SIZE)) / math.sqrt(SIZE)
        matrix = matrix if operator is None else operator.matrix.numpy()
        x0 = np.linalg.cholesky(covariance) @ stream.standard_normal(SIZE)
        y = matrix @ x0 + std * stream.standard_normal(len(matrix))
        yield Linear.of(covariance, operator or Matrix(torch.from_numpy(matrix)), y, std, sde)


def moments(
    sampler: Sampler, model: Model, shape: tuple[int, ...], draws: int = 16
) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the samples, exact where every step is affine.

    A batch holds the mean, the mean plus each column of a root of the covariance, and the mean plus
    each unit draw of the step; after it, the covariance has one root again.

    Args:
        sampler: one whose steps do not remember the steps before, or multistep.
        model: what it is run on.
        shape: of an example.
        draws: of noise within a step at most.
    """
    d = math.prod(shape)
    if isinstance(sampler, Multistep):
        return _whole(sampler, model, shape)
    eye = torch.eye(d, dtype=torch.float64)
    state = torch.zeros(1 + d + draws * d, d, dtype=torch.float64)
    state[1 : 1 + d] = eye * sampler.start_spread(model.sde)
    drawn = 0

    def noise() -> Tensor:
        nonlocal drawn
        units = torch.zeros_like(state)
        first = 1 + d + drawn * d
        units[first : first + d] = eye  # too many draws do not fit, and raise
        drawn += 1
        return units.reshape(-1, *shape)

    def fold(x: Tensor) -> None:
        nonlocal drawn
        rows = x.view(len(x), d)
        change = rows[1:] - rows[0]
        covariance = change.T @ change
        values, vectors = torch.linalg.eigh(covariance)
        rows[1 : 1 + d] = rows[0] + (vectors * values.clamp(min=0).sqrt()).T
        rows[1 + d :] = rows[0]
        drawn = 0

    with torch.no_grad():
        run = Problem(model, sampler.times(model.sde), noise, None, lambda: None)
        x = state.reshape(-1, *shape)
        for _, reached in sampler.iterate(run, x):
            x = reached
            fold(x)
        if sampler.denoise and not sampler.ends_at_data:
            x = run.denoise(x, run.times[-1])
    rows = x.reshape(len(x), d)
    change = rows[1:] - rows[0]
    return rows[0], change.T @ change


def is_affine(sampler: Sampler, model: Model, shape: tuple[int, ...]) -> bool:
    """Whether the samples are an affine function of the start, without noise on the way."""
    u, v = normal(2, *shape, seed=1)
    start = torch.stack([torch.zeros_like(u), u, v, u + v]) * sampler.start_spread(model.sde)
    out = sampler(model, start, noise=lambda: torch.zeros_like(start), progress=False)
    zero, of_u, of_v, of_both = out.double()
    return torch.allclose(of_both - zero, of_u - zero + of_v - zero, rtol=1e-4, atol=1e-8)


def _whole(sampler: Sampler, model: Model, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The moments of a sampler that draws nothing but its start, from one run."""
    d = math.prod(shape)
    start = torch.zeros(1 + d, d, dtype=torch.float64)
    start[1:] = torch.eye(d, dtype=torch.float64) * sampler.start_spread(model.sde)
    rows = sampler(model, start.reshape(-1, *shape), seed=0, progress=False).reshape(1 + d, d)
    change = rows[1:] - rows[0]
    return rows[0], change.T @ change


def divergence(mean: Tensor, covariance: Tensor, exact_mean: Tensor, exact: Tensor) -> float:
    """KL(N(mean, covariance) || N(exact_mean, exact)) in nats; infinite without a spread."""
    if torch.linalg.eigvalsh(covariance)[0] <= 1e-12:
        return math.inf
    inverse, change = torch.linalg.inv(exact), exact_mean - mean
    return 0.5 * float(
        torch.trace(inverse @ covariance) + change @ inverse @ change - len(mean)
        + exact.logdet() - covariance.logdet()
    )  # fmt: skip
